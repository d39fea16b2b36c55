package settle.hessian;

import java.io.Serializable;
import java.math.BigDecimal;
import java.util.Date;
import java.util.List;
import java.util.Map;

/** Classes as an application has them. */
public final class Beans {
    private Beans() {
    }

    public enum Colour {
        RED, GREEN, BLUE
    }

    /** A constant with a body is of a class of its own, whose name has a number. */
    public enum Shade {
        PLAIN,
        DARK {
            @Override
            public String toString() {
                return "dark";
            }
        }
    }

    /** One field of each kind of primitive, and boxed. */
    public static class Scalars implements Serializable {
        boolean bool;
        byte tiny;
        short small;
        char letter;
        int number;
        long large;
        float real;
        double precise;
        Boolean boxedBool;
        Byte boxedTiny;
        Short boxedSmall;
        Character boxedLetter;
        Integer boxedNumber;
        Long boxedLarge;
        Float boxedReal;
        Double boxedPrecise;
        String text;
    }

    /** Fields that Java's serializers put in another order than they stand in. */
    public static class Parent implements Serializable {
        List<Object> items;
        String name;
        transient String forgotten = "never written";
        static String shared = "never written";
        int id;
    }

    /** A field of the parent's name is written twice, first the child's. */
    public static class Child extends Parent {
        Map<String, Object> tags;
        BigDecimal amount;
        Date when;
        Colour colour;
        Object anything;
        Parent owner;
    }

    public static class Node implements Serializable {
        String label;
        Node next;
        Node previous;
    }

    public static class Empty implements Serializable {
    }

    /** Written as another object in its place. */
    public static class Temperature implements Serializable {
        transient double celsius;

        Temperature(double celsius) {
            this.celsius = celsius;
        }

        Object writeReplace() {
            return new TemperatureHandle(celsius);
        }
    }

    public static class TemperatureHandle implements Serializable {
        double celsius;

        TemperatureHandle() {
        }

        TemperatureHandle(double celsius) {
            this.celsius = celsius;
        }

        Object readResolve() {
            return new Temperature(celsius);
        }
    }

    public static class Refused extends RuntimeException {
        int code;
        Object detail;

        public Refused() {
        }

        Refused(String message, Throwable cause, int code, Object detail) {
            super(message, cause);
            this.code = code;
            this.detail = detail;
        }
    }
}
