package settle.hessian;

import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/** The test service that Caucho's jar brings: what its methods answer, and what they say to arguments. */
final class Service {
    private static final String PREFIX = "service-";
    private final Object servlet;

    private Service(Object servlet) {
        this.servlet = servlet;
    }

    /** Null when the library has no such service. */
    static Service find() throws ReflectiveOperationException {
        try {
            return new Service(Class.forName("com.caucho.hessian.test.TestHessian2Servlet").getDeclaredConstructor().newInstance());
        } catch (ClassNotFoundException absent) {
            return null;
        }
    }

    /** Each method with the value that it answers or, of one that takes a value, with the one that it expects. */
    Map<String, List<Object>> cases() throws ReflectiveOperationException {
        Map<String, List<Object>> cases = new TreeMap<>();
        for (Method method : Class.forName("com.caucho.hessian.test.TestHessian2").getMethods()) {
            String name = method.getName();
            Object value = null;
            if (!name.equals("methodNull") && !name.equals("argNull")) {
                value = answer(name.startsWith("arg") ? "reply" + name.substring(3) : name);
            }
            cases.put(PREFIX + name, new ArrayList<>(Collections.singletonList(value)));
        }
        return cases;
    }

    private Object answer(String name) throws ReflectiveOperationException {
        return servlet.getClass().getMethod(name).invoke(servlet);
    }

    static boolean takes(String caseName) {
        return caseName.startsWith(PREFIX + "arg");
    }

    /** "ok", or what the method says instead. */
    String judge(String caseName, Object value) throws ReflectiveOperationException {
        Method method = Arrays.stream(servlet.getClass().getMethods())
            .filter(each -> each.getName().equals(caseName.substring(PREFIX.length())))
            .findFirst().orElseThrow();
        try {
            Object said = method.invoke(servlet, value);
            return Boolean.TRUE.equals(said) ? "ok" : "the service says " + said;
        } catch (InvocationTargetException error) {
            return "the service throws " + error.getCause();
        }
    }
}
