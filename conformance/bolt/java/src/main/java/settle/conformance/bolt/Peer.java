package settle.conformance.bolt;

import com.alipay.remoting.AsyncContext;
import com.alipay.remoting.BizContext;
import com.alipay.remoting.Connection;
import com.alipay.remoting.InvokeCallback;
import com.alipay.remoting.InvokeContext;
import com.alipay.remoting.rpc.RpcClient;
import com.alipay.remoting.rpc.RpcServer;
import com.alipay.remoting.rpc.protocol.AsyncUserProcessor;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executor;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

/**
 * A client or a server of the library. Orders come in on stdin, one a line: a number, a verb, then words, with tabs
 * between; what happened goes to stdout in the same form. Texts are told by their length and hash, since they may be long.
 *
 * A request is a text. {@code big:n} stands for n letters; {@code sleep:ms} is answered late, {@code throw:words} by an
 * exception, {@code null} by nothing, all else by itself.
 */
public final class Peer {
    private static final ExecutorService THREADS = Executors.newCachedThreadPool();
    private static RpcServer server;
    private static RpcClient client;
    private static final Map<String, Connection> CONNECTIONS = new ConcurrentHashMap<>();
    private static volatile Connection last;

    public static void main(String[] args) throws Exception {
        if (args[0].equals("server")) {
            server = new RpcServer(Integer.parseInt(args[1]), true);
            server.registerUserProcessor(new Texts());
            server.startup();
        } else {
            client = new RpcClient();
            client.registerUserProcessor(new Texts());
            client.startup();
        }
        say("0", "ready", System.getProperty("java.version"));
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] words = line.split("\t", -1);
            THREADS.execute(() -> {
                try {
                    obey(words);
                } catch (Throwable failure) {
                    say(words[0], "failure", failure.getClass().getSimpleName(), String.valueOf(failure.getMessage()));
                }
            });
        }
        System.exit(0);
    }

    private static void obey(String[] words) throws Exception {
        String number = words[0];
        switch (words[1]) {
            case "open" -> {
                Connection connection = client.createStandaloneConnection(words[2], 3000);
                CONNECTIONS.put(words[3], connection);
                say(number, "open");
            }
            case "alive" -> say(number, "alive", String.valueOf(CONNECTIONS.get(words[2]).isFine()));
            case "close" -> {
                client.closeStandaloneConnection(CONNECTIONS.remove(words[2]));
                say(number, "closed");
            }
            case "sync", "future", "callback" -> {
                int timeout = Integer.parseInt(words[3]);
                Object text = text(words[4]);
                InvokeContext context = new InvokeContext();
                if (words.length > 5) {
                    context.put(InvokeContext.BOLT_CRC_SWITCH, Boolean.valueOf(words[5]));
                }
                Connection connection = CONNECTIONS.get(words[2]);
                if (words[1].equals("sync")) {
                    Object answer = client.invokeSync(connection, text, context, timeout);
                    tell(number, answer);
                } else if (words[1].equals("future")) {
                    tell(number, client.invokeWithFuture(connection, text, context, timeout).get(timeout));
                } else {
                    client.invokeWithCallback(connection, text, context, new Told(number), timeout);
                }
            }
            case "oneway" -> {
                client.oneway(CONNECTIONS.get(words[2]), text(words[3]));
                say(number, "told");
            }
            // The server asks the client that spoke last.
            case "ask-back" -> tell(number, server.invokeSync(last, text(words[3]), Integer.parseInt(words[2])));
            case "tell-back" -> {
                server.oneway(last, text(words[2]));
                say(number, "told");
            }
            default -> say(number, "unknown");
        }
    }

    private static Object text(String word) {
        if (word.startsWith("big:")) {
            return "\u00fc".repeat(Integer.parseInt(word.substring(4)));
        }
        // A class that no processor on the other side knows.
        if (word.startsWith("number:")) {
            return Long.valueOf(word.substring(7));
        }
        return word;
    }

    private static void tell(String number, Object answer) {
        if (answer instanceof String text) {
            say(number, "answer", String.valueOf(text.length()), String.valueOf(text.hashCode()));
        } else {
            say(number, "answer", String.valueOf(answer));
        }
    }

    private static synchronized void say(String... words) {
        StringBuilder line = new StringBuilder();
        for (String word : words) {
            line.append(line.length() == 0 ? "" : "\t").append(word.replaceAll("[\t\r\n]", " "));
        }
        System.out.println(line);
        System.out.flush();
    }

    private record Told(String number) implements InvokeCallback {
        @Override
        public void onResponse(Object result) {
            tell(number, result);
        }

        @Override
        public void onException(Throwable failure) {
            say(number, "failure", failure.getClass().getSimpleName(), String.valueOf(failure.getMessage()));
        }

        @Override
        public Executor getExecutor() {
            return null;
        }
    }

    private static final class Texts extends AsyncUserProcessor<String> {
        @Override
        public void handleRequest(BizContext context, AsyncContext answer, String text) {
            last = context.getConnection();
            say("0", "heard", String.valueOf(text.length()), String.valueOf(text.hashCode()));
            if (text.startsWith("sleep:")) {
                THREADS.execute(() -> {
                    try {
                        Thread.sleep(Long.parseLong(text.substring(6)));
                    } catch (InterruptedException stopped) {
                        return;
                    }
                    answer.sendResponse(text);
                });
            } else if (text.startsWith("throw:")) {
                throw new IllegalStateException(text.substring(6));
            } else {
                answer.sendResponse(text.equals("null") ? null : text);
            }
        }

        @Override
        public String interest() {
            return String.class.getName();
        }
    }
}
