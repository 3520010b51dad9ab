import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.apache.kafka.common.utils.Exit;

/**
 * Runs the real mains of Kafka's command line tools, one after the other, in one JVM, so that the
 * client matrix pays for one JVM start and not for a hundred.
 *
 * <p>Arguments: the kafka-tools jar, which must not be on the class path. Every command loads it
 * anew, so that each run starts with the tool's static fields as a fresh process would.
 *
 * <p>A command is a line on stdin, its fields separated by U+001F: main class, file for its stdin
 * (or "-"), file for its stdout, arguments. The answer on stdout is "exit STATUS". Stderr is shared.
 */
public final class JavaTools {
  private static final String SEPARATOR = "\u001f";

  /** The status that the running tool first asked to end with, or null: see {@link #exit}. */
  private static Integer requestedStatus;

  /** Thrown in place of ending the JVM; an Error, because tools catch Exception around their exit. */
  private static final class ToolExit extends Error {
    ToolExit() {
      super("the tool ended", null, false, false);
    }
  }

  private JavaTools() {}

  public static void main(String[] args) throws Exception {
    URL[] tools = {Path.of(args[0]).toUri().toURL()};
    PrintStream answers = System.out;
    BufferedReader commands =
        new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    List<Runnable> hooks = new ArrayList<>();
    Exit.setExitProcedure(JavaTools::exit);
    Exit.setHaltProcedure(JavaTools::exit);
    Exit.setShutdownHookAdder((name, hook) -> hooks.add(hook));
    answers.println("ready");
    answers.flush();
    for (String line = commands.readLine(); line != null; line = commands.readLine()) {
      String[] fields = line.split(SEPARATOR, -1);
      int status = run(tools, fields, hooks);
      answers.println("exit " + status);
      answers.flush();
    }
    Runtime.getRuntime().halt(0);
  }

  /** A tool that catches even Errors asks a second time to end, with a status of failure. */
  private static void exit(int status, String message) {
    if (requestedStatus == null) {
      requestedStatus = status;
    }
    throw new ToolExit();
  }

  private static int run(URL[] tools, String[] fields, List<Runnable> hooks) throws Exception {
    Thread thread = Thread.currentThread();
    ClassLoader before = thread.getContextClassLoader();
    InputStream stdin = System.in;
    PrintStream stdout = System.out;
    try (URLClassLoader loader = new URLClassLoader(tools, JavaTools.class.getClassLoader());
        InputStream in =
            fields[1].equals("-") ? InputStream.nullInputStream() : new FileInputStream(fields[1]);
        PrintStream out =
            new PrintStream(new FileOutputStream(fields[2]), false, StandardCharsets.UTF_8)) {
      thread.setContextClassLoader(loader);
      System.setIn(in);
      System.setOut(out);
      int status = invoke(loader, fields[0], Arrays.copyOfRange(fields, 3, fields.length));
      // What the tool leaves to its shutdown hooks, such as closing its producer, happens now.
      hooks.forEach(Runnable::run);
      hooks.clear();
      out.flush();
      return out.checkError() ? 1 : status;
    } finally {
      System.setIn(stdin);
      System.setOut(stdout);
      thread.setContextClassLoader(before);
    }
  }

  private static int invoke(ClassLoader loader, String mainClass, String[] args) throws Exception {
    requestedStatus = null;
    try {
      loader.loadClass(mainClass).getMethod("main", String[].class).invoke(null, (Object) args);
      return requestedStatus == null ? 0 : requestedStatus;
    } catch (InvocationTargetException failure) {
      if (failure.getCause() instanceof ToolExit) {
        return requestedStatus;
      }
      failure.getCause().printStackTrace();
      return 1;
    }
  }
}
