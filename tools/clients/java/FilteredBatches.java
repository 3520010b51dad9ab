import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.HexFormat;
import java.util.Random;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.record.internal.CompressionType;
import org.apache.kafka.common.record.internal.MemoryRecords;
import org.apache.kafka.common.record.internal.MemoryRecords.RecordFilter;
import org.apache.kafka.common.record.internal.MemoryRecordsBuilder;
import org.apache.kafka.common.record.internal.Record;
import org.apache.kafka.common.record.internal.RecordBatch;
import org.apache.kafka.common.record.internal.SimpleRecord;
import org.apache.kafka.common.utils.BufferSupplier;

/**
 * Batches as the log cleaner of Kafka leaves them, for our own to be held against: see
 * `protocol/tests/filtered_batches.rs`. Without arguments it writes the fixture to stdout. With
 * "read" it prints what Kafka reads in the batches that stdin has in hexadecimal, one a line.
 */
public final class FilteredBatches {
  private static final long FIRST_MS = 1_700_000_000_000L;
  private static final long NOW_MS = FIRST_MS + 100_000;
  private static final long DELETE_RETENTION_MS = 86_400_000;
  private static final int RECORDS = 6;
  private static final int ALL = (1 << RECORDS) - 1;

  private FilteredBatches() {}

  public static void main(String[] args) throws Exception {
    PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
    if (args.length > 0 && args[0].equals("read")) {
      String hex = new String(System.in.readAllBytes(), StandardCharsets.UTF_8);
      hex.lines().forEach(line -> describe(out, HexFormat.of().parseHex(line)));
    } else {
      write(out);
    }
    out.flush();
  }

  private static void write(PrintStream out) {
    out.println("# Batches before and after MemoryRecords.filterTo of Kafka 4.3.1, as FilteredBatches.java");
    out.println("# writes them: codec, records that stay, whether an empty batch stays, horizon, the batch");
    out.println("# in hexadecimal, what is left of it (- for nothing).");
    Random random = new Random(5);
    int number = 0;
    for (CompressionType codec : CompressionType.values()) {
      for (TimestampType timestamps :
          new TimestampType[] {TimestampType.CREATE_TIME, TimestampType.LOG_APPEND_TIME}) {
        for (int producer = 0; producer < 3; producer++) {
          byte[] batch = batch(codec, timestamps, producer, random);
          int mask = 1 + random.nextInt(ALL - 1);
          byte[] first = filtered(out, codec, mask, false, batch);
          // The next round finds a batch with gaps, and with a horizon where a tombstone stayed.
          filtered(out, codec, mask & random.nextInt(), true, first);
          if (number % 3 == 0) {
            filtered(out, codec, ALL, false, batch);
          } else {
            filtered(out, codec, 0, number % 3 == 1, batch);
          }
          number++;
        }
      }
    }
  }

  /** Six records: two tombstones, a null key, headers, timestamps out of order. */
  private static byte[] batch(
      CompressionType codec, TimestampType timestamps, int producer, Random random) {
    long producerId = producer == 0 ? RecordBatch.NO_PRODUCER_ID : 4711;
    short producerEpoch = producer == 0 ? RecordBatch.NO_PRODUCER_EPOCH : 3;
    int sequence = producer == 0 ? RecordBatch.NO_SEQUENCE : Integer.MAX_VALUE - 2;
    MemoryRecordsBuilder builder =
        MemoryRecords.builder(
            ByteBuffer.allocate(1024),
            RecordBatch.MAGIC_VALUE_V2,
            Compression.of(codec).build(),
            timestamps,
            1_000_000L + random.nextInt(1000),
            timestamps == TimestampType.LOG_APPEND_TIME ? FIRST_MS + 50 : RecordBatch.NO_TIMESTAMP,
            producerId,
            producerEpoch,
            sequence,
            producer == 2,
            7);
    Header[] headers = {
      new RecordHeader("h", new byte[] {'x'}), new RecordHeader("h", (byte[]) null)
    };
    for (int index = 0; index < RECORDS; index++) {
      byte[] key = index == 3 ? null : ("key-" + random.nextInt(4)).getBytes(StandardCharsets.UTF_8);
      byte[] value =
          index == 1 || index == 4
              ? null
              : ("value value value " + index).getBytes(StandardCharsets.UTF_8);
      long timestamp = FIRST_MS + random.nextInt(20);
      builder.append(
          new SimpleRecord(timestamp, key, value, index == 2 ? headers : Record.EMPTY_HEADERS));
    }
    return bytes(builder.build().buffer());
  }

  private static byte[] filtered(
      PrintStream out, CompressionType codec, int mask, boolean keepsEmpty, byte[] batch) {
    RecordFilter filter =
        new RecordFilter(NOW_MS, DELETE_RETENTION_MS) {
          @Override
          protected BatchRetentionResult checkBatchRetention(RecordBatch recordBatch) {
            BatchRetention retention =
                keepsEmpty ? BatchRetention.RETAIN_EMPTY : BatchRetention.DELETE_EMPTY;
            return new BatchRetentionResult(retention, false);
          }

          @Override
          protected boolean shouldRetainRecord(RecordBatch recordBatch, Record record) {
            return (mask & 1 << (record.offset() - recordBatch.baseOffset())) != 0;
          }
        };
    MemoryRecords records = MemoryRecords.readableRecords(ByteBuffer.wrap(batch));
    ByteBuffer buffer = ByteBuffer.allocate(4096);
    ByteBuffer output = records.filterTo(filter, buffer, BufferSupplier.NO_CACHING).outputBuffer();
    output.flip();
    byte[] left = bytes(output);
    HexFormat hex = HexFormat.of();
    out.printf(
        "%s %d %b %d %s %s%n",
        codec.name,
        mask & ALL,
        keepsEmpty,
        NOW_MS + DELETE_RETENTION_MS,
        hex.formatHex(batch),
        left.length == 0 ? "-" : hex.formatHex(left));
    return left;
  }

  private static void describe(PrintStream out, byte[] bytes) {
    for (RecordBatch batch : MemoryRecords.readableRecords(ByteBuffer.wrap(bytes)).batches()) {
      batch.ensureValid();
      out.printf(
          "batch %d to %d, sequences %d to %d of %d/%d, %s, horizon %s%n",
          batch.baseOffset(),
          batch.lastOffset(),
          batch.baseSequence(),
          batch.lastSequence(),
          batch.producerId(),
          batch.producerEpoch(),
          batch.compressionType(),
          batch.deleteHorizonMs());
      for (Record record : batch) {
        record.ensureValid();
        out.printf(
            "%d %d %d %s %s %s%n",
            record.offset(),
            record.sequence(),
            record.timestamp(),
            record.hasKey() ? StandardCharsets.UTF_8.decode(record.key()) : null,
            record.hasValue() ? StandardCharsets.UTF_8.decode(record.value()) : null,
            java.util.Arrays.toString(record.headers()));
      }
    }
  }

  private static byte[] bytes(ByteBuffer buffer) {
    byte[] bytes = new byte[buffer.remaining()];
    buffer.duplicate().get(bytes);
    return bytes;
  }
}
