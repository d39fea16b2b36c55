package settle.hessian;

import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.Serializable;
import java.lang.management.ManagementFactory;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.function.IntFunction;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

import com.sun.management.OperatingSystemMXBean;
import ${hessian.package}.io.Hessian2Input;
import ${hessian.package}.io.Hessian2Output;
import ${hessian.package}.io.SerializerFactory;

/**
 * The Java side of {@code cargo xtask compare hessian}: how fast the library writes and reads the messages of
 * {@code xtask/benches/hessian/cases.rs}, with one factory for all. Takes orders, one a line: {@code encode order 300}
 * writes for 300 ms and answers with the nanoseconds of one message, {@code decode} reads, {@code bytes} tells the bytes.
 */
public final class Bench {
    private static final SerializerFactory FACTORY = new SerializerFactory();

    private Bench() {
    }

    public static class Order implements Serializable {
        long orderId = 7_203_685_477_580L;
        long customerId = 4_711L;
        int version = 3;
        int status = 200;
        int priority = -1;
        int channel = 12;
        int shopId = 1_000_001;
        int warehouseId = 77;
        boolean isPaid = true;
        boolean isGift = false;
        boolean isExpress = true;
        boolean isTest = false;
        double total = 1_234.56;
        double discount = 0.15;
        double tax = 98.0;
        double weight = 2.375;
        String currency = "CNY";
        String country = "China";
        String city = "杭州市";
        String street = "Xixi Road 556";
        String zip = "310013";
        String name = "Zhang San";
        String phone = "+86 571 0000 0000";
        String mail = "zhang.san@example.com";
        String carrier = "express";
        String tracking = "SF1234567890123";
        String invoice = "INV-2026-0000815";
        String coupon = null;
        String comment = "please ring twice";
        String traceId = "0a0fe91f1600000000000100112345";
        String createdBy = "system";
        String changedBy = null;
        long createdAt = 1_764_000_000_123L;
        long changedAt = 1_764_000_360_123L;
        long paidAt = 1_764_000_060_000L;
        List<Line> lines = lines();
        List<String> tags = range(8).mapToObj(tag -> "tag-" + tag).collect(Collectors.toCollection(ArrayList::new));
        List<Integer> quantities = range(20).boxed().collect(Collectors.toCollection(ArrayList::new));
        Map<String, String> attributes = map(10, at -> "attribute" + at, at -> "value " + at);
        Map<String, Long> limits = map(5, at -> "limit" + at, at -> at * 1000L);
    }

    public static class Line implements Serializable {
        String sku;
        String title;
        int quantity;
        double price;
        double weight = 0.25;
        boolean returnable;
    }

    private static IntStream range(int count) {
        return IntStream.range(0, count);
    }

    private static <V> Map<String, V> map(int count, IntFunction<String> key, IntFunction<V> value) {
        Map<String, V> map = new HashMap<>();
        range(count).forEach(at -> map.put(key.apply(at), value.apply(at)));
        return map;
    }

    private static List<Line> lines() {
        List<Line> lines = new ArrayList<>();
        for (int index = 0; index < 10; index++) {
            Line line = new Line();
            line.sku = String.format("SKU-%08d", index);
            line.title = "An article with a title of some length, number " + index;
            line.quantity = index + 1;
            line.price = index * 19.99;
            line.returnable = index % 2 == 0;
            lines.add(line);
        }
        return lines;
    }

    private interface Work {
        int run() throws IOException;
    }

    public static void main(String[] args) throws IOException {
        Map<String, Object> cases = new HashMap<>();
        cases.put("order", new Order());
        cases.put("map", map(8192, at -> String.format("key-%060d", at), at -> String.format("value-%058d", at)));
        cases.put("ints", range(10_000).map(at -> at % 256).boxed().collect(Collectors.toCollection(ArrayList::new)));
        BufferedReader orders = new BufferedReader(new InputStreamReader(System.in));
        for (String order = orders.readLine(); order != null; order = orders.readLine()) {
            String[] words = order.split(" ");
            Object value = cases.get(words[1]);
            byte[] bytes = write(value);
            long millis = Long.parseLong(words[2]);
            switch (words[0]) {
                case "bytes":
                    System.out.println(hex(bytes));
                    break;
                case "encode":
                    System.out.println(measure(millis, () -> write(value).length));
                    break;
                default:
                    System.out.println(measure(millis, () -> read(bytes)));
            }
        }
    }

    private static String hex(byte[] bytes) {
        StringBuilder hex = new StringBuilder(2 * bytes.length);
        for (byte each : bytes) {
            hex.append(String.format("%02x", each));
        }
        return hex.toString();
    }

    private static byte[] write(Object value) throws IOException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream(1 << 12);
        Hessian2Output output = new Hessian2Output(bytes);
        output.setSerializerFactory(FACTORY);
        output.writeObject(value);
        output.flush();
        return bytes.toByteArray();
    }

    private static int read(byte[] bytes) throws IOException {
        Hessian2Input input = new Hessian2Input(new ByteArrayInputStream(bytes));
        input.setSerializerFactory(FACTORY);
        Object value = input.readObject();
        if (value instanceof Order) {
            return ((Order) value).lines.size();
        }
        return value instanceof Map ? ((Map<?, ?>) value).size() : ((List<?>) value).size();
    }

    private static volatile int sink;

    /** Nanoseconds of the process' CPU, its collector's too, that one turn of {@code work} takes, over {@code millis}. */
    private static double measure(long millis, Work work) throws IOException {
        OperatingSystemMXBean system = (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
        long end = System.nanoTime() + millis * 1_000_000;
        long cpu = system.getProcessCpuTime();
        long count = 0;
        while (System.nanoTime() < end) {
            for (int turn = 0; turn < 8; turn++) {
                sink += work.run();
            }
            count += 8;
        }
        return (double) (system.getProcessCpuTime() - cpu) / count;
    }
}
