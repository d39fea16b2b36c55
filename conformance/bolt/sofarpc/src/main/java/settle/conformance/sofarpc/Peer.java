package settle.conformance.sofarpc;

import com.alipay.sofa.rpc.api.future.SofaResponseFuture;
import com.alipay.sofa.rpc.config.ConsumerConfig;
import com.alipay.sofa.rpc.config.ProviderConfig;
import com.alipay.sofa.rpc.config.ServerConfig;
import com.alipay.sofa.rpc.core.exception.SofaRpcException;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Date;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/**
 * A provider or a consumer of SOFARPC with its default settings. Orders come in on stdin, one a line: a number, a kind of
 * invocation, a method, then words, with tabs between; what happened goes to stdout in the same form.
 */
public final class Peer {
    private static PrintStream out;

    public static void main(String[] args) throws Exception {
        out = System.out;
        // The library logs there.
        System.setOut(System.err);
        if (args[0].equals("server")) {
            ServerConfig server = new ServerConfig().setProtocol("bolt").setHost("127.0.0.1").setPort(Integer.parseInt(args[1]));
            new ProviderConfig<Greeter>().setInterfaceId(Greeter.class.getName()).setRef(new Greetings()).setServer(server)
                .setRegister(false).export();
        }
        Map<String, Greeter> consumers = new HashMap<>();
        say("0", "ready");
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] words = line.split("\t", -1);
            new Thread(() -> {
                try {
                    Greeter greeter;
                    synchronized (consumers) {
                        greeter = consumers.computeIfAbsent(words[1], kind -> new ConsumerConfig<Greeter>()
                            .setInterfaceId(Greeter.class.getName()).setDirectUrl("bolt://127.0.0.1:" + args[1])
                            .setRegister(false).setSubscribe(false).setTimeout(5000).setInvokeType(kind)
                            .setRepeatedReferLimit(-1).refer());
                    }
                    Object answer = call(greeter, words);
                    if (words[1].equals("future")) {
                        answer = SofaResponseFuture.getResponse(5000, true);
                    }
                    say(words[0], "answer", shown(answer));
                } catch (SofaRpcException failure) {
                    say(words[0], "failure", String.valueOf(failure.getErrorType()), String.valueOf(failure.getMessage()));
                } catch (Throwable failure) {
                    say(words[0], "exception", failure.getClass().getName(), String.valueOf(failure.getMessage()));
                }
            }).start();
        }
        System.exit(0);
    }

    private static Object call(Greeter greeter, String[] words) {
        String word = words.length > 3 ? words[3] : "";
        switch (words[2]) {
            case "echo":
                return greeter.echo(word.startsWith("big:") ? "\u00fc".repeat(Integer.parseInt(word.substring(4))) : word);
            case "sum":
                return greeter.sum(1, new int[] { 2, 3 });
            case "order":
                return greeter.order(sample());
            case "count":
                return greeter.count(new ArrayList<>(Arrays.asList("a", "b", "a")), "b");
            case "bytes":
                return greeter.bytes(new byte[] { 1, 2, -1 });
            case "nothing":
                greeter.nothing();
                return null;
            case "fail":
                return greeter.fail(word);
            case "slow":
                return greeter.slow(Integer.parseInt(word));
            default:
                throw new IllegalArgumentException(words[2]);
        }
    }

    private static Order sample() {
        Order order = new Order();
        order.id = 1L << 40;
        order.customer = "J\u00f6rg \u4e2d\ud83d\ude00";
        order.price = new BigDecimal("12.50");
        order.placed = new Date(1_700_000_000_123L);
        for (int at = 0; at < 3; at++) {
            Order.Item item = new Order.Item();
            item.name = "item" + at;
            item.count = at * 1000;
            order.items.add(item);
        }
        order.first = order.items.get(0);
        return order;
    }

    private static String shown(Object value) {
        if (value instanceof byte[]) {
            return Arrays.toString((byte[]) value);
        } else if (value instanceof Map) {
            return new TreeMap<>((Map<?, ?>) value).toString();
        } else if (value instanceof String && ((String) value).length() > 100) {
            return ((String) value).length() + " " + value.hashCode();
        }
        return String.valueOf(value);
    }

    private static synchronized void say(String... words) {
        StringBuilder line = new StringBuilder();
        for (String word : words) {
            line.append(line.length() == 0 ? "" : "\t").append(word.replaceAll("[\t\r\n]", " "));
        }
        out.write((line + "\n").getBytes(StandardCharsets.UTF_8), 0, (line + "\n").getBytes(StandardCharsets.UTF_8).length);
        out.flush();
    }

    private static final class Greetings implements Greeter {
        @Override
        public String echo(String text) {
            say("0", "heard", shown(text));
            return text;
        }

        @Override
        public int sum(int first, int[] others) {
            return first + Arrays.stream(others).sum();
        }

        @Override
        public Order order(Order order) {
            say("0", "heard", order.toString());
            order.id++;
            return order;
        }

        @Override
        public Map<String, Long> count(List<String> words, String other) {
            Map<String, Long> counts = new HashMap<>();
            words.forEach(word -> counts.merge(word, 1L, Long::sum));
            counts.merge(other, 1L, Long::sum);
            return counts;
        }

        @Override
        public byte[] bytes(byte[] bytes) {
            return bytes;
        }

        @Override
        public void nothing() {
        }

        @Override
        public String fail(String words) {
            throw new IllegalStateException(words);
        }

        @Override
        public String slow(int millis) {
            try {
                Thread.sleep(millis);
            } catch (InterruptedException stopped) {
                Thread.currentThread().interrupt();
            }
            return "slept";
        }
    }
}
