package settle.hessian;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.Serializable;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.function.IntFunction;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

import ${hessian.package}.io.Hessian2Input;
import ${hessian.package}.io.Hessian2Output;
import ${hessian.package}.io.SerializerFactory;

/**
 * {@code Bench <seconds>}: how fast the library writes and reads what {@code cargo bench -p xtask --bench hessian} does,
 * with one factory for all messages and warmed up. Prints {@code case TAB direction TAB bytes TAB nanoseconds}, the
 * median of the rounds.
 */
public final class Bench {
    private static final int ROUNDS = 5;
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
        double seconds = Double.parseDouble(args[0]);
        Map<String, Object> cases = new java.util.LinkedHashMap<>();
        cases.put("order", new Order());
        cases.put("map", map(8192, at -> String.format("key-%060d", at), at -> String.format("value-%058d", at)));
        cases.put("ints", range(10_000).map(at -> at % 256).boxed().collect(Collectors.toCollection(ArrayList::new)));
        for (Map.Entry<String, Object> each : cases.entrySet()) {
            byte[] bytes = write(each.getValue());
            measure(each.getKey(), "encode", bytes.length, seconds, () -> write(each.getValue()).length);
            measure(each.getKey(), "decode", bytes.length, seconds, () -> read(bytes).hashCode() & 1);
        }
    }

    private static byte[] write(Object value) throws IOException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream(1 << 12);
        Hessian2Output output = new Hessian2Output(bytes);
        output.setSerializerFactory(FACTORY);
        output.writeObject(value);
        output.flush();
        return bytes.toByteArray();
    }

    private static Object read(byte[] bytes) throws IOException {
        Hessian2Input input = new Hessian2Input(new ByteArrayInputStream(bytes));
        input.setSerializerFactory(FACTORY);
        Object value = input.readObject();
        return value instanceof Order ? ((Order) value).lines.size() : ((Object) (value instanceof Map ? ((Map<?, ?>) value).size() : ((List<?>) value).size()));
    }

    private static volatile int sink;

    private static void measure(String name, String direction, int bytes, double seconds, Work work) throws IOException {
        long[] rounds = new long[ROUNDS];
        // The first rounds warm up.
        for (int round = -3; round < ROUNDS; round++) {
            long start = System.nanoTime();
            long end = start + (long) (seconds * 1e9);
            long count = 0;
            long now = start;
            while (now < end) {
                sink += work.run();
                count++;
                now = System.nanoTime();
            }
            if (round >= 0) {
                rounds[round] = (now - start) / count;
            }
        }
        Arrays.sort(rounds);
        System.out.println(name + "\t" + direction + "\t" + bytes + "\t" + rounds[ROUNDS / 2]);
    }
}
