package settle.hessian;

import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

import ${hessian.package}.io.Hessian2Input;
import ${hessian.package}.io.Hessian2Output;
import ${hessian.package}.io.SerializerFactory;

/**
 * {@code Peer <seed> <rounds>} prints each case as {@code name TAB number of values TAB bytes TAB calls}, or
 * {@code name TAB ! TAB error} when the library cannot write it, then {@code end}. Then it takes
 * {@code name TAB bytes} on standard input, reads the bytes with the library, and prints {@code name TAB ok} when the
 * library makes of them what it makes of its own, else {@code name TAB what is different}.
 */
public final class Peer {
    private static final SerializerFactory FACTORY = factory();

    private Peer() {
    }

    private static SerializerFactory factory() {
        SerializerFactory factory = new SerializerFactory();
        factory.setAllowNonSerializable(true);
        return factory;
    }

    public static void main(String[] args) throws Exception {
        PrintStream out = new PrintStream(System.out, false, StandardCharsets.US_ASCII);
        Service service = Service.find();
        List<Map<String, List<Object>>> twice = new ArrayList<>();
        // An iterator can be used up once only: one set of values is written, an equal one is recorded.
        for (int i = 0; i < 2; i++) {
            Map<String, List<Object>> cases = Cases.make(Long.parseLong(args[0]), Integer.parseInt(args[1]));
            if (service != null) {
                cases.putAll(service.cases());
            }
            twice.add(cases);
        }
        Map<String, byte[]> written = new LinkedHashMap<>();
        Map<String, Integer> counts = new LinkedHashMap<>();
        for (Map.Entry<String, List<Object>> entry : twice.get(0).entrySet()) {
            String name = entry.getKey();
            int count = entry.getValue().size();
            try {
                byte[] bytes = write(entry.getValue());
                Recorder recorder = new Recorder(FACTORY);
                for (Object value : twice.get(1).get(name)) {
                    recorder.writeObject(value);
                }
                written.put(name, bytes);
                counts.put(name, count);
                out.println(name + "\t" + count + "\t" + Recorder.hex(bytes, 0, bytes.length) + "\t" + recorder.calls());
            } catch (Throwable error) {
                out.println(name + "\t!\t" + line(error));
            }
        }
        out.println("end");
        out.flush();

        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII), 1 << 20);
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] parts = line.split("\t");
            byte[] given = bytes(parts.length > 1 ? parts[1] : "");
            String own = outcome(written.get(parts[0]), counts.get(parts[0]));
            String theirs = outcome(given, counts.get(parts[0]));
            String verdict = !own.equals(theirs) ? difference(own, theirs) : own.startsWith("!") ? "unreadable " + own : "ok";
            if (verdict.equals("ok") && Service.takes(parts[0])) {
                verdict = service.judge(parts[0], read(given, 1).get(0));
            }
            out.println(parts[0] + "\t" + verdict);
            out.flush();
        }
    }

    private static byte[] write(List<Object> values) throws IOException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        Hessian2Output output = new Hessian2Output(bytes);
        output.setSerializerFactory(FACTORY);
        for (Object value : values) {
            output.writeObject(value);
        }
        output.flush();
        return bytes.toByteArray();
    }

    private static List<Object> read(byte[] bytes, int count) throws IOException {
        Hessian2Input input = new Hessian2Input(new ByteArrayInputStream(bytes));
        input.setSerializerFactory(FACTORY);
        List<Object> values = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            values.add(input.readObject());
        }
        return values;
    }

    /** What the library makes of bytes, in the words of the recorder; or its error. */
    private static String outcome(byte[] bytes, int count) {
        try {
            Recorder recorder = new Recorder(FACTORY);
            for (Object value : read(bytes, count)) {
                recorder.writeObject(value);
            }
            return recorder.calls();
        } catch (Throwable error) {
            return "!" + line(error);
        }
    }

    private static String difference(String own, String theirs) {
        int at = 0;
        while (at < Math.min(own.length(), theirs.length()) && own.charAt(at) == theirs.charAt(at)) {
            at++;
        }
        return "differs at " + at + ": own " + cut(own, at) + " | given " + cut(theirs, at);
    }

    private static String cut(String text, int at) {
        return text.substring(Math.max(0, at - 30), Math.min(text.length(), at + 60));
    }

    private static String line(Throwable error) {
        String text = error.toString() + (error.getCause() == null ? "" : " <- " + error.getCause());
        text = text.replaceAll("[^ -~]", "?");
        return text.substring(0, Math.min(text.length(), 300));
    }

    private static byte[] bytes(String hex) {
        byte[] out = new byte[hex.length() / 2];
        for (int i = 0; i < out.length; i++) {
            out[i] = (byte) (Character.digit(hex.charAt(2 * i), 16) << 4 | Character.digit(hex.charAt(2 * i + 1), 16));
        }
        return out;
    }
}
