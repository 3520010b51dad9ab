import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.Random;
import org.HdrHistogram.Histogram;
import org.HdrHistogram.HistogramLogWriter;

/**
 * Writes a log as Java programs do, for `corelog hist` to read: two tags and intervals without any,
 * in ns, on stdout.
 */
public final class Histograms {
  private static final int INTERVALS = 20;
  private static final int SAMPLES = 10_000;
  private static final long START_MS = 1_767_225_600_000L;

  private Histograms() {}

  public static void main(String[] args) {
    PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
    HistogramLogWriter log = new HistogramLogWriter(out);
    log.outputComment("[made-up latencies]");
    log.outputLogFormatVersion();
    log.outputStartTime(START_MS);
    log.outputLegend();
    Random random = new Random(7);
    String[] tags = {"response", "service", null};
    for (int interval = 0; interval < INTERVALS; interval++) {
      for (String tag : tags) {
        Histogram histogram = new Histogram(3);
        for (int sample = 0; sample < SAMPLES; sample++) {
          double median = random.nextInt(1000) == 0 ? 5e7 : 2e5;
          histogram.recordValue((long) (median * Math.exp(0.4 * random.nextGaussian())));
        }
        long start = START_MS + interval * 1000L;
        histogram.setTag(tag);
        histogram.setStartTimeStamp(start);
        histogram.setEndTimeStamp(start + 1000);
        log.outputIntervalHistogram(histogram);
      }
    }
    out.flush();
  }
}
