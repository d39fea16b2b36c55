package settle.conformance;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.SynchronousQueue;

/** The points at which a transfer stands still until the driver says how to go on. */
final class Gates {
    private static final Map<String, SynchronousQueue<String>> WAITING = new ConcurrentHashMap<>();

    /** The transfers that this process was asked for. */
    private static final Set<String> ASKED = ConcurrentHashMap.newKeySet();

    private Gates() {
    }

    /** This process was asked for transfer `id`. */
    static void ask(String id) {
        ASKED.add(id);
    }

    static boolean knows(String id) {
        return ASKED.contains(id);
    }

    /** Reports `paused` and waits; returns the driver's word: "go" or "abort". */
    static String pause(String id, String at, String xid) throws InterruptedException {
        SynchronousQueue<String> gate = new SynchronousQueue<>();
        WAITING.put(id, gate);
        Wire.event("paused", "id", id, "at", at, "xid", xid);
        return gate.take();
    }

    /** Lets transfer `id` continue with `word`. */
    static void open(String id, String word) throws InterruptedException {
        SynchronousQueue<String> gate = WAITING.remove(id);
        if (gate == null) {
            Wire.event("error", "message", "nothing is paused under " + id);
            return;
        }
        gate.put(word);
    }

    /** The ids which stand still now. */
    static List<String> waiting() {
        return new ArrayList<>(WAITING.keySet());
    }
}
