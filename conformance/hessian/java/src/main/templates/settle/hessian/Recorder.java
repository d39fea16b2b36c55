package settle.hessian;

import java.io.IOException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.IdentityHashMap;
import java.util.List;
import java.util.Map;

import ${hessian.package}.io.AbstractHessianOutput;
import ${hessian.package}.io.Serializer;
import ${hessian.package}.io.SerializerFactory;

/**
 * An output that notes which calls the library's serializers make, in words that know nothing of either encoding:
 * what a value is, without a byte of what it looks like on the wire.
 */
public final class Recorder extends AbstractHessianOutput {
    private final StringBuilder calls = new StringBuilder();
    private final Map<Object, Integer> numbers = new IdentityHashMap<>();
    private final Map<String, Integer> classes = new HashMap<>();
    private int count;
    /** The class whose definition is being written, and how many names of fields are to come; -1: their number is. */
    private List<String> definition;
    private int namesLeft;

    Recorder(SerializerFactory factory) {
        setSerializerFactory(factory);
    }

    String calls() {
        return calls.toString();
    }

    private void note(String call) {
        if (calls.length() > 0) {
            calls.append(' ');
        }
        calls.append(call);
    }

    static String hex(String text) {
        StringBuilder out = new StringBuilder(4 * text.length());
        for (int i = 0; i < text.length(); i++) {
            out.append(Character.forDigit(text.charAt(i) >> 12, 16)).append(Character.forDigit(text.charAt(i) >> 8 & 15, 16));
            out.append(Character.forDigit(text.charAt(i) >> 4 & 15, 16)).append(Character.forDigit(text.charAt(i) & 15, 16));
        }
        return out.toString();
    }

    static String hex(byte[] bytes, int offset, int length) {
        StringBuilder out = new StringBuilder(2 * length);
        for (int i = offset; i < offset + length; i++) {
            out.append(Character.forDigit(bytes[i] >> 4 & 15, 16)).append(Character.forDigit(bytes[i] & 15, 16));
        }
        return out.toString();
    }

    public void writeNull() {
        note("N");
    }

    public void writeBoolean(boolean value) {
        note(value ? "T" : "F");
    }

    public void writeInt(int value) {
        if (definition != null && namesLeft < 0) {
            writeClassFieldLength(value);
        } else {
            note("I" + value);
        }
    }

    public void writeLong(long value) {
        note("L" + value);
    }

    public void writeDouble(double value) {
        // Neither encoding keeps the sign of zero.
        note("D" + Long.toHexString(Double.doubleToLongBits(value == 0 ? 0.0 : value)));
    }

    public void writeUTCDate(long time) {
        note("A" + time);
    }

    public void writeString(String value) {
        if (definition != null && namesLeft > 0) {
            namesLeft--;
            definition.add(hex(value));
        } else if (value == null) {
            writeNull();
        } else {
            note("S" + hex(value));
        }
    }

    public void writeString(char[] buffer, int offset, int length) {
        if (buffer == null) {
            writeNull();
        } else {
            note("S" + hex(new String(buffer, offset, length)));
        }
    }

    public void writeBytes(byte[] buffer) {
        if (buffer == null) {
            writeNull();
        } else {
            writeBytes(buffer, 0, buffer.length);
        }
    }

    public void writeBytes(byte[] buffer, int offset, int length) {
        if (buffer == null) {
            writeNull();
        } else {
            note("Y" + hex(buffer, offset, length));
        }
    }

    public boolean addRef(Object object) {
        Integer known = numbers.get(object);
        if (known != null) {
            note("R" + known);
            return true;
        }
        numbers.put(object, count++);
        return false;
    }

    public int getRef(Object object) {
        return numbers.getOrDefault(object, -1);
    }

    public void writeRef(int value) {
        note("R" + value);
    }

    public boolean removeRef(Object object) {
        if (numbers.remove(object) != null) {
            count--;
        }
        return true;
    }

    public boolean replaceRef(Object before, Object after) {
        Integer number = numbers.remove(before);
        if (number == null) {
            return false;
        }
        numbers.put(after, number);
        return true;
    }

    public void writeObject(Object object) throws IOException {
        if (object == null) {
            writeNull();
            return;
        }
        serializer(object.getClass()).writeObject(object, this);
    }

    private Serializer serializer(Class<?> type) throws IOException {
        SerializerFactory factory = findSerializerFactory();
        try {
            // Only Caucho has it.
            return (Serializer) SerializerFactory.class.getMethod("getObjectSerializer", Class.class).invoke(factory, type);
        } catch (NoSuchMethodException e) {
            return factory.getSerializer(type);
        } catch (ReflectiveOperationException e) {
            throw new IOException(e);
        }
    }

    public boolean writeListBegin(int length, String type) {
        note("[" + length + (type == null ? "" : ":" + hex(type)));
        return true;
    }

    public void writeListEnd() {
        note("]");
    }

    public void writeMapBegin(String type) {
        note("{" + (type == null ? "" : hex(type)));
    }

    public void writeMapEnd() {
        note("}");
    }

    public int writeObjectBegin(String type) {
        if (definition != null) {
            note("C" + String.join(",", definition));
            definition = null;
        } else if (!classes.containsKey(type)) {
            classes.put(type, classes.size());
            definition = new ArrayList<>(List.of(hex(type)));
            namesLeft = -1;
            return -1;
        }
        note("O" + classes.get(type));
        return classes.get(type);
    }

    public void writeClassFieldLength(int length) {
        namesLeft = length;
    }

    public void writeObjectEnd() {
    }

    public void writeByteBufferStart() {
        throw new UnsupportedOperationException();
    }

    public void writeByteBufferPart(byte[] buffer, int offset, int length) {
        throw new UnsupportedOperationException();
    }

    public void writeByteBufferEnd(byte[] buffer, int offset, int length) {
        throw new UnsupportedOperationException();
    }

    public void startCall() {
        throw new UnsupportedOperationException();
    }

    public void startCall(String method) {
        throw new UnsupportedOperationException();
    }

    public void startCall(String method, int length) {
        throw new UnsupportedOperationException();
    }

    public void writeHeader(String name) {
        throw new UnsupportedOperationException();
    }

    public void writeMethod(String method) {
        throw new UnsupportedOperationException();
    }

    public void completeCall() {
        throw new UnsupportedOperationException();
    }

    public void writeRemote(String type, String url) {
        throw new UnsupportedOperationException();
    }
}
