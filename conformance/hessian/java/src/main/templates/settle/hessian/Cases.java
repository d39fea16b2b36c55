package settle.hessian;

import java.io.File;
import java.io.IOException;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.net.InetAddress;
import java.net.URL;
import java.time.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;
import java.util.function.Supplier;

/** What applications send, made by a seed: each name is a kind of value, and the seed chooses what is in it. */
final class Cases {
    private final Random random;
    private final Map<String, List<Object>> all = new LinkedHashMap<>();

    private Cases(long seed) {
        random = new Random(seed);
    }

    /** Name and values of each case; several values share one stream. */
    static Map<String, List<Object>> make(long seed, int rounds) throws Exception {
        Cases cases = new Cases(seed);
        for (int round = 0; round < rounds; round++) {
            cases.round(round);
        }
        return cases.all;
    }

    private void add(String kind, int round, Object... values) {
        all.put(kind + "-" + round, Arrays.asList(values));
    }

    private void round(int round) throws Exception {
        add("null", round, (Object) null);
        add("ints", round, ints(40).toArray());
        add("longs", round, longs(40).toArray());
        add("doubles", round, doubles(40).toArray());
        add("floats", round, random.nextFloat(), 12.25f, 0.1f, -3f, Float.MAX_VALUE, Float.NaN, (float) random.nextInt());
        add("short-byte-char", round, (short) random.nextInt(), (byte) random.nextInt(), letter(), 'a', '\0');
        add("booleans", round, true, false);
        add("dates", round, date(), new Date(0), new Date(60_000L * random.nextInt()), new Date(-1),
            new Date(Long.MAX_VALUE), new Date(60_000L * Integer.MAX_VALUE), new Date(60_000L * (1L << 31)));
        add("string-lengths", round, text(0), text(1), text(31), text(32), text(1023), text(1024), text(65_535));
        add("string-chunk-edges", round, text(0x7fff), text(0x8000), text(0x8001), text(0x10000 + random.nextInt(9)));
        add("string-surrogates-at-the-edge", round, "a".repeat(0x7fff - random.nextInt(2)) + "😀".repeat(3 + random.nextInt(5)),
            "é".repeat(0x7fff) + "😀" + "x".repeat(0x8000));
        add("string-scripts", round, "h\u00e9llo", "\u4f60\u597d", "\ud83d\ude00\ud83d\udc69\u200d\ud83d\udcbb", "a\0b", "\uffff", "\u07ff\u0800");
        add("string-lone-surrogates", round, "\ud83d", "a\ude00b", "\udc00\ud800");
        for (int length : new int[] {0, 15, 16, 1023, 1024, 4093, 4094, 8189, 8190, 0x8000, 0x8001, 70_000}) {
            add("binary-" + length, round, (Object) binary(length));
        }
        // What comes first decides where Caucho cuts the binary behind it.
        add("binary-behind-text", round, text(random.nextInt(9000)), binary(9000 + random.nextInt(9000)), ints(5).get(0),
            binary(random.nextInt(300)), text(random.nextInt(9000)), binary(20_000));
        add("binary-behind-scalars", round, ints(3000), doubles(700), true, binary(12_000), longs(900), binary(9_000));
        add("binary-behind-objects", round, scalarsList(60 + random.nextInt(20)), binary(16_400), scalars(), binary(8_191));
        add("binary-behind-dates", round, dates(900 + random.nextInt(300)), binary(8_200), flags(8_150 + random.nextInt(60)), binary(9_000));
        add("binary-behind-maps", round, map(900), binary(8_200), nested(120), binary(9_000), refs(3000 + random.nextInt(900)), binary(9_000));

        add("int-array", round, (Object) intArray(random.nextInt(20)), (Object) new int[0], (Object) intArray(300));
        add("primitive-arrays", round, new long[] {1, longs(1).get(0)}, new short[] {1, -2}, new double[] {0, 0.5}, new float[] {1, 0.1f},
            new boolean[] {true, false}, new char[] {'a', letter()}, new byte[] {1, 2}, new long[0]);
        add("boxed-arrays", round, new Integer[] {1, null, 3}, new Long[] {1L}, new Double[] {0.5}, new Boolean[] {true, null},
            new Short[] {1}, new Byte[] {2}, new Float[] {0.5f}, new Character[] {'x'});
        add("string-arrays", round, new String[] {text(3), null, text(40)}, new String[0], new String[] {text(1)});
        add("object-arrays", round, (Object) new Object[] {1, "a", null, new int[] {1}, date()}, new Date[] {date()}, new Object[0]);
        add("arrays-of-arrays", round, new int[][] {{1}, {}, {2, 3}}, new String[][] {{"a"}, null}, new Object[][] {{1}, {"b"}});
        add("bean-arrays", round, new Beans.Parent[] {parent(0), null}, new Beans.Colour[] {Beans.Colour.RED, Beans.Colour.GREEN, Beans.Colour.RED},
            new BigDecimal[] {decimal(), decimal()});

        add("array-list", round, list(random.nextInt(7)), list(8), list(300), new ArrayList<>());
        add("linked-list", round, new LinkedList<>(list(3)), new LinkedList<>(list(4)), new LinkedList<>());
        add("vector-stack", round, new Vector<>(list(2)), stack());
        add("deques", round, new ArrayDeque<>(ints(3)), new PriorityQueue<>(ints(3)), new ConcurrentLinkedQueue<>(ints(2)));
        add("copy-on-write", round, new CopyOnWriteArrayList<>(list(2)));
        add("sets", round, new HashSet<>(ints(9)), new LinkedHashSet<>(ints(9)), new TreeSet<>(ints(9)), new TreeSet<>(Set.of(text(9))));
        add("as-list", round, Arrays.asList(1, "a", null));
        add("collections-of-one", round, Collections.singletonList(text(2)), Collections.singleton(4), Collections.emptyList(), Collections.emptySet());
        add("unmodifiable", round, Collections.unmodifiableList(list(3)), Collections.unmodifiableMap(map(2)), Collections.synchronizedList(list(2)));
        add("list-of", round, List.of(1, 2, 3), Set.of(7), Map.of("k", 1));
        add("enum-collections", round, EnumSet.of(Beans.Colour.RED, Beans.Colour.BLUE), new EnumMap<>(Map.of(Beans.Colour.RED, 1)));
        add("bit-set", round, BitSet.valueOf(new long[] {random.nextLong(), 5}));
        add("iterators", round, ints(3).iterator(), new ArrayList<>().iterator(), Collections.enumeration(ints(2)));

        add("hash-map", round, map(random.nextInt(9)), map(0), map(100));
        add("map-kinds", round, new LinkedHashMap<>(map(3)), new TreeMap<>(map(3)), new Hashtable<>(Map.of("a", 1)), new ConcurrentHashMap<>(Map.of("b", 2)),
            new TreeMap<>(map(2)), new IdentityHashMap<>(Map.of("i", 1)), new WeakHashMap<>(Map.of("w", 1)));
        add("map-keys", round, hash(1, "int", 2L, "long", 0.5, "double", date(), "date", null, "null", Beans.Colour.RED, "enum"),
            hash(list(2), "a list"), hash(Beans.Colour.BLUE, null));
        add("map-true-first", round, hash(true, "the key"));
        add("properties", round, properties());

        add("scalars", round, scalars(), scalars(), new Beans.Scalars());
        add("inheritance", round, child(2), parent(1), child(0));
        add("empty-object", round, new Beans.Empty(), new Beans.Empty());
        add("enums", round, Beans.Colour.RED, Beans.Colour.GREEN, Beans.Colour.RED, TimeUnit.SECONDS);
        add("enum-with-a-body", round, Beans.Shade.PLAIN, Beans.Shade.DARK, Beans.Shade.DARK);
        add("shared", round, shared());
        add("shared-across-values", round, twice(), twiceAgain());
        add("cycle-of-objects", round, ring(2 + random.nextInt(5)), ring(1));
        add("cycle-of-lists", round, ownList(), ownMap());
        add("many-references", round, refs(300), refs(70_000));
        add("many-classes", round, manyClasses());
        add("replaced", round, temperatures());
        add("deep", round, nested(60));

        add("big-decimal", round, decimal(), new BigDecimal("1.50"), BigDecimal.ZERO, new BigDecimal("1E+30"));
        add("big-integer", round, new BigInteger(10 + random.nextInt(200), random), BigInteger.ZERO, new BigInteger("-12345678901234567890"));
        add("uuid", round, new UUID(random.nextLong(), random.nextLong()));
        add("locale", round, Locale.CHINA, Locale.ENGLISH, new Locale("de", "DE", "POSIX"), Locale.ROOT);
        add("currency", round, Currency.getInstance("CNY"), Currency.getInstance("EUR"));
        add("calendar", round, calendar());
        add("sql-dates", round, new java.sql.Date(date().getTime()), new java.sql.Time(date().getTime()), new java.sql.Timestamp(date().getTime()));
        add("file", round, new File("/tmp/a"));
        add("url", round, new URL("http://example.com/a"));
        add("inet-address", round, InetAddress.getByAddress("localhost", new byte[] {127, 0, 0, 1}));
        add("class", round, String.class, int.class, Beans.Parent.class, int[].class);
        add("string-builders", round, new StringBuilder(text(3)), new StringBuffer(text(4)));
        add("optional", round, Optional.of("x"));
        add("atomics", round, new AtomicInteger(random.nextInt()), new AtomicLong(random.nextLong()), new AtomicBoolean(true),
            new AtomicReference<>(text(3)));
        add("atomic-arrays", round, new AtomicIntegerArray(intArray(3)), new AtomicLongArray(new long[] {1, 2}), new AtomicReferenceArray<>(new String[] {"a"}));

        LocalDate day = LocalDate.ofEpochDay(random.nextInt(40_000));
        LocalTime hour = LocalTime.ofNanoOfDay(random.nextInt(86_400) * 1_000_000_000L + random.nextInt(1_000_000_000));
        add("local-date", round, day);
        add("local-time", round, hour);
        add("local-date-time", round, LocalDateTime.of(day, hour));
        add("instant", round, Instant.ofEpochSecond(random.nextInt(), random.nextInt(1_000_000_000)));
        add("duration-period", round, Duration.ofSeconds(random.nextInt(), 7), Period.of(1, 2, random.nextInt(30)));
        add("years", round, Year.of(2000 + random.nextInt(99)), YearMonth.of(2020, 1 + random.nextInt(12)), MonthDay.of(2, 29));
        add("offsets", round, ZoneOffset.ofHoursMinutes(random.nextInt(12), 30), OffsetDateTime.of(day, hour, ZoneOffset.UTC),
            OffsetTime.of(hour, ZoneOffset.ofHours(-3)));
        add("zoned", round, ZonedDateTime.of(day, hour, ZoneId.of("Asia/Shanghai")), ZoneId.of("Europe/Paris"));

        add("exception", round, thrown("a plain one", null));
        add("exception-with-cause", round, thrown("outer", new IllegalStateException("inner", new IOException("root"))));
        Exception suppressing = thrown("with suppressed", null);
        suppressing.addSuppressed(new IllegalArgumentException(text(5)));
        add("exception-suppressed", round, suppressing);
        add("exception-of-an-application", round, new Beans.Refused(text(9), thrown("why", null), random.nextInt(), list(2)));
        add("error", round, new StackOverflowError("no trace"), new Error(text(2)));
        add("stack-trace-element", round, new StackTraceElement("a.B", "c", "B.java", 7), new StackTraceElement("a.B", "<init>", null, -2));

        add("graph", round, graph(0), graph(0), graph(0));
        add("graph-again", round, graph(0), graph(1));
    }

    private static Exception thrown(String message, Throwable cause) {
        return new RuntimeException(message, cause);
    }

    private char letter() {
        return (char) ('a' + random.nextInt(26));
    }

    private Date date() {
        return new Date(random.nextInt(3) == 0 ? 60_000L * random.nextInt(40_000_000) : random.nextLong() >> 20);
    }

    private BigDecimal decimal() {
        return new BigDecimal(BigInteger.valueOf(random.nextLong()), random.nextInt(12));
    }

    private String text(int length) {
        StringBuilder out = new StringBuilder(length + 1);
        int plane = random.nextInt(4);
        while (out.length() < length) {
            switch (plane) {
                case 0: out.append(letter()); break;
                case 1: out.append((char) (random.nextInt(5) == 0 ? 0xe0 + random.nextInt(30) : letter())); break;
                case 2: out.append((char) (0x4e00 + random.nextInt(5000))); break;
                default:
                    if (random.nextInt(6) == 0 && out.length() + 2 <= length) {
                        out.appendCodePoint(0x1f600 + random.nextInt(60));
                    } else {
                        out.append(letter());
                    }
            }
        }
        return out.toString();
    }

    private byte[] binary(int length) {
        byte[] bytes = new byte[length];
        random.nextBytes(bytes);
        return bytes;
    }

    private int[] intArray(int length) {
        return ints(length).stream().mapToInt(Integer::intValue).toArray();
    }

    private List<Integer> ints(int count) {
        int[] edges = {0, -16, -17, 47, 48, -2048, -2049, 2047, 2048, -262144, -262145, 262143, 262144, Integer.MIN_VALUE, Integer.MAX_VALUE};
        List<Integer> out = new ArrayList<>();
        while (out.size() < count) {
            out.add(random.nextBoolean() ? edges[random.nextInt(edges.length)] : random.nextInt() >> random.nextInt(32));
        }
        return out;
    }

    private List<Long> longs(int count) {
        long[] edges = {0, -8, -9, 15, 16, -2048, -2049, 2047, 2048, -262144, -262145, 262143, 262144, Integer.MIN_VALUE, Integer.MAX_VALUE,
            Integer.MIN_VALUE - 1L, Integer.MAX_VALUE + 1L, Long.MIN_VALUE, Long.MAX_VALUE};
        List<Long> out = new ArrayList<>();
        while (out.size() < count) {
            out.add(random.nextBoolean() ? edges[random.nextInt(edges.length)] : random.nextLong() >> random.nextInt(64));
        }
        return out;
    }

    private List<Double> doubles(int count) {
        double[] edges = {0, -0.0, 1, -128, 127, 128, -129, -32768, 32767, 32768, -32769, 0.001, 12.25, 0.1, 2147483.647, 2147483.648, -2147483.648, Double.NaN,
            Double.POSITIVE_INFINITY, Double.NEGATIVE_INFINITY, Double.MIN_VALUE, Double.MAX_VALUE, Float.MIN_VALUE, Float.MAX_VALUE, 1e10, 0.0005};
        List<Double> out = new ArrayList<>();
        while (out.size() < count) {
            switch (random.nextInt(5)) {
                case 0: out.add(edges[random.nextInt(edges.length)]); break;
                case 1: out.add(random.nextInt() * 0.001); break;
                case 2: out.add(random.nextInt(2_000_000) / 1000.0); break;
                case 3: out.add((double) Float.intBitsToFloat(random.nextInt())); break;
                default: out.add(Double.longBitsToDouble(random.nextLong()));
            }
        }
        return out;
    }

    private List<Date> dates(int count) {
        List<Date> out = new ArrayList<>();
        while (out.size() < count) {
            out.add(date());
        }
        return out;
    }

    private List<Boolean> flags(int count) {
        List<Boolean> out = new ArrayList<>();
        while (out.size() < count) {
            out.add(random.nextBoolean());
        }
        return out;
    }

    private List<Object> list(int length) {
        List<Object> out = new ArrayList<>();
        while (out.size() < length) {
            out.add(scalar());
        }
        return out;
    }

    private Object scalar() {
        switch (random.nextInt(8)) {
            case 0: return null;
            case 1: return ints(1).get(0);
            case 2: return longs(1).get(0);
            case 3: return doubles(1).get(0);
            case 4: return date();
            case 5: return random.nextBoolean();
            case 6: return binary(random.nextInt(40));
            default: return text(random.nextInt(50));
        }
    }

    private Map<String, Object> map(int size) {
        Map<String, Object> out = new HashMap<>();
        while (out.size() < size) {
            out.put(text(1 + random.nextInt(20)), scalar());
        }
        return out;
    }

    private static Map<Object, Object> hash(Object... entries) {
        Map<Object, Object> out = new HashMap<>();
        for (int i = 0; i < entries.length; i += 2) {
            out.put(entries[i], entries[i + 1]);
        }
        return out;
    }

    private Properties properties() {
        Properties out = new Properties();
        out.setProperty("k", text(4));
        return out;
    }

    private Stack<Object> stack() {
        Stack<Object> out = new Stack<>();
        out.push(scalar());
        return out;
    }

    private Beans.Scalars scalars() {
        Beans.Scalars out = new Beans.Scalars();
        out.bool = random.nextBoolean();
        out.tiny = (byte) random.nextInt();
        out.small = (short) random.nextInt();
        out.letter = letter();
        out.number = ints(1).get(0);
        out.large = longs(1).get(0);
        out.real = random.nextFloat();
        out.precise = doubles(1).get(0);
        out.boxedBool = random.nextBoolean();
        out.boxedTiny = (byte) random.nextInt();
        out.boxedSmall = (short) random.nextInt();
        out.boxedLetter = letter();
        out.boxedNumber = random.nextInt();
        out.boxedLarge = random.nextLong();
        out.boxedReal = random.nextFloat();
        out.boxedPrecise = doubles(1).get(0);
        out.text = text(random.nextInt(50));
        return out;
    }

    private List<Object> scalarsList(int count) {
        List<Object> out = new ArrayList<>();
        while (out.size() < count) {
            out.add(scalars());
        }
        return out;
    }

    private <T extends Beans.Parent> T fill(T out, int depth) {
        out.id = random.nextInt();
        out.name = text(random.nextInt(20));
        out.items = list(random.nextInt(4));
        if (depth > 0) {
            out.items.add(child(depth - 1));
        }
        return out;
    }

    private Beans.Parent parent(int depth) {
        return fill(new Beans.Parent(), depth);
    }

    private Beans.Child child(int depth) {
        Beans.Child out = fill(new Beans.Child(), depth);
        out.tags = map(random.nextInt(4));
        out.amount = decimal();
        out.when = date();
        out.colour = Beans.Colour.values()[random.nextInt(3)];
        out.anything = scalar();
        out.owner = depth > 0 ? parent(depth - 1) : null;
        return out;
    }

    private Object shared() {
        List<Object> list = list(2);
        Beans.Child child = child(0);
        return new ArrayList<>(Arrays.asList(list, child, list, child, child.items, child.amount, new Object[] {list, child}));
    }

    private final List<Object> kept = new ArrayList<>(List.of("kept"));

    private Object twice() {
        return new ArrayList<>(Arrays.asList(kept, kept));
    }

    private Object twiceAgain() {
        return kept;
    }

    private Beans.Node ring(int length) {
        Beans.Node first = new Beans.Node();
        Beans.Node last = first;
        first.label = text(2);
        for (int i = 1; i < length; i++) {
            Beans.Node next = new Beans.Node();
            next.label = text(3);
            last.next = next;
            next.previous = last;
            last = next;
        }
        last.next = first;
        first.previous = last;
        return first;
    }

    private static Object ownList() {
        List<Object> list = new ArrayList<>();
        list.add(1);
        list.add(list);
        return list;
    }

    private static Object ownMap() {
        Map<Object, Object> map = new HashMap<>();
        map.put("me", map);
        return map;
    }

    /** References to lists of every number, so that each length of a number is met. */
    private Object refs(int count) {
        List<Object> out = new ArrayList<>();
        for (int i = 0; i < count / 2; i++) {
            out.add(new ArrayList<>());
        }
        for (int i = 0; i < count - count / 2; i++) {
            out.add(out.get(random.nextInt(count / 2)));
        }
        return out;
    }

    private Object manyClasses() {
        List<Object> out = new ArrayList<>(List.of(new Beans.Empty(), new Beans.Parent(), new Beans.Child(), new Beans.Scalars(), new Beans.Node()));
        out.addAll(List.of(Beans.Colour.RED, TimeUnit.DAYS, BigDecimal.ONE, new java.sql.Date(0), new java.sql.Time(0), new java.sql.Timestamp(0)));
        out.addAll(List.of(new Beans.TemperatureHandle(), RoundingMode.get(), ElementType.get(), Thread.State.NEW, DayOfWeek.MONDAY, Month.MAY));
        out.addAll(List.of(java.time.format.TextStyle.FULL, java.util.concurrent.TimeUnit.DAYS, new Beans.Empty(), new Beans.Node(), Month.JUNE, DayOfWeek.FRIDAY));
        return out;
    }

    private static final class RoundingMode {
        static Object get() {
            return java.math.RoundingMode.UP;
        }
    }

    private static final class ElementType {
        static Object get() {
            return java.lang.annotation.ElementType.FIELD;
        }
    }

    private Object temperatures() {
        Beans.Temperature one = new Beans.Temperature(random.nextInt(40));
        return new ArrayList<>(List.of(one, new Beans.Temperature(0.5), one, new ArrayList<>(List.of(1)), one));
    }

    private Object nested(int depth) {
        Object value = scalar();
        for (int i = 0; i < depth; i++) {
            value = i % 3 == 0 ? hash("in", value) : new ArrayList<>(Arrays.asList(value, i));
        }
        return value;
    }

    private Calendar calendar() {
        Calendar calendar = new GregorianCalendar(TimeZone.getTimeZone("UTC"), Locale.ROOT);
        calendar.setTime(date());
        return calendar;
    }

    /** A value of mixed kinds inside each other, some of them several times. */
    private Object graph(int depth) {
        List<Supplier<Object>> kinds = List.of(
            this::scalar, this::scalar, this::scalars, () -> child(1), () -> Beans.Colour.values()[random.nextInt(3)],
            this::decimal, () -> intArray(random.nextInt(9)), () -> new String[] {text(3)}, () -> new TreeMap<>(map(2)),
            () -> new LinkedList<>(list(2)), () -> kept, () -> ring(2));
        if (depth > 4 || random.nextInt(5) == 0) {
            return kinds.get(random.nextInt(kinds.size())).get();
        }
        Map<Object, Object> map = new LinkedHashMap<>();
        List<Object> list = new ArrayList<>();
        for (int i = 0; i < 2 + random.nextInt(3); i++) {
            Object value = graph(depth + 1);
            list.add(value);
            map.put(text(2 + random.nextInt(4)), random.nextBoolean() ? value : graph(depth + 1));
        }
        map.put("list", list);
        return random.nextBoolean() ? map : list;
    }
}
