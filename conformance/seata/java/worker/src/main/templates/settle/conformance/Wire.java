package settle.conformance;

import java.io.PrintStream;
import java.util.LinkedHashMap;
import java.util.Map;

import com.alibaba.fastjson.JSON;

/** The line protocol with the driver: one JSON object per line, commands on stdin, events on stdout. */
final class Wire {
    /** The real stdout; System.out itself is sent to stderr, so that no library can break the protocol. */
    private static final PrintStream EVENTS = System.out;

    private Wire() {
    }

    static void protectStdout() {
        System.setOut(System.err);
    }

    /** Sends an event with alternating keys and values. `at_ms` is this process's wall clock. */
    static void event(String name, Object... pairs) {
        Map<String, Object> line = new LinkedHashMap<>();
        line.put("event", name);
        line.put("at_ms", System.currentTimeMillis());
        for (int i = 0; i < pairs.length; i += 2) {
            line.put((String) pairs[i], pairs[i + 1]);
        }
        synchronized (EVENTS) {
            EVENTS.println(JSON.toJSONString(line));
            EVENTS.flush();
        }
    }
}
