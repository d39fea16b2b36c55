package settle.conformance.sofarpc;

import java.util.List;
import java.util.Map;

/** The service that both sides offer. */
public interface Greeter {
    String echo(String text);

    int sum(int first, int[] others);

    Order order(Order order);

    Map<String, Long> count(List<String> words, String other);

    byte[] bytes(byte[] bytes);

    void nothing();

    /** Throws an IllegalStateException with these words. */
    String fail(String words);

    String slow(int millis);
}
