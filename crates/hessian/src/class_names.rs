//! Which class names may come in.
//!
//! This decoder makes data and never runs code of a class, so the chains of "gadgets" that attack Java's deserializers
//! do nothing here. They would where the bytes are passed on to a JVM. So names known from such chains are refused by
//! default, and a service that knows its types can say which names it takes.

use std::borrow::Cow;

use crate::HessianError;

/// Rules about the names of classes, types of lists and types of maps, applied before anything is made of them: to
/// dynamic values, to derived types and to what is skipped alike.
///
/// A rule is a prefix of a Java class name: `com.example.` for a package and all below it, `com.example.Order` for that
/// class, its inner classes, and every name that begins so. Of an array the name of the elements counts:
/// `[Lcom.example.Order;` and `[com.example.Order` are judged as `com.example.Order`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClassNames {
    deny: Prefixes,
    allow: Option<Prefixes>,
}

impl ClassNames {
    /// Refuses [`DENIED`] and takes everything else.
    pub const DEFAULT: ClassNames = ClassNames {
        deny: Prefixes(Cow::Borrowed(DENIED)),
        allow: None,
    };

    /// Refuses nothing.
    pub fn any() -> ClassNames {
        ClassNames {
            deny: Prefixes(Cow::Borrowed(&[])),
            allow: None,
        }
    }

    /// Refuses these prefixes too.
    #[must_use]
    pub fn deny<I: IntoIterator<Item: Into<Box<str>>>>(mut self, prefixes: I) -> ClassNames {
        self.deny.add(prefixes);
        self
    }

    /// From now on takes only names that begin with a prefix that was given here, by this call or another, and are not
    /// refused. The short names of primitives, as in `[int`, and of `string`, `object` and `date` are always taken.
    #[must_use]
    pub fn allow<I: IntoIterator<Item: Into<Box<str>>>>(mut self, prefixes: I) -> ClassNames {
        self.allow.get_or_insert(Prefixes(Cow::Borrowed(&[]))).add(prefixes);
        self
    }

    /// Whether `name`, as it stands on the wire, is taken.
    pub fn takes(&self, name: &str) -> bool {
        let name = element_name(name);
        if self.deny.has_prefix_of(name) {
            return false;
        }
        match &self.allow {
            None => true,
            Some(allow) => !name.contains('.') && SHORT_NAMES.contains(&name) || allow.has_prefix_of(name),
        }
    }

    pub(crate) fn check(&self, name: &str) -> Result<(), HessianError> {
        if self.takes(name) {
            return Ok(());
        }
        Err(HessianError::ClassRefused { name: name.into() })
    }
}

impl Default for ClassNames {
    fn default() -> ClassNames {
        ClassNames::DEFAULT
    }
}

/// `com.example.Order` for `[[Lcom.example.Order;`, `[com.example.Order` and itself.
fn element_name(name: &str) -> &str {
    let element = name.trim_start_matches('[');
    let is_array = element.len() < name.len();
    match element.strip_prefix('L').and_then(|rest| rest.strip_suffix(';')) {
        Some(inner) if is_array => inner,
        _ => element,
    }
}

/// What Java's serializers call types that have no class name on the wire.
const SHORT_NAMES: &[&str] = &[
    "void?", "boolean", "byte", "short", "int", "long", "float", "double", "char", "string", "object", "date",
];

/// Sorted, and none a prefix of another: then only the greatest entry that is not above a name can be its prefix.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Prefixes(Cow<'static, [Cow<'static, str>]>);

impl Prefixes {
    fn has_prefix_of(&self, name: &str) -> bool {
        let after = self.0.partition_point(|prefix| prefix.as_ref() <= name);
        after > 0 && name.starts_with(self.0[after - 1].as_ref())
    }

    fn add<I: IntoIterator<Item: Into<Box<str>>>>(&mut self, prefixes: I) {
        let all = self.0.to_mut();
        all.extend(
            prefixes
                .into_iter()
                .map(|prefix| Cow::Owned(String::from(prefix.into()))),
        );
        all.sort_unstable();
        all.dedup_by(|longer, shorter| longer.starts_with(shorter.as_ref()));
    }
}

const fn prefix(text: &'static str) -> Cow<'static, str> {
    Cow::Borrowed(text)
}

/// What is refused by default, sorted: the classes through which published deserialization chains run, by the library
/// that ships them. It is no promise to be complete; [`ClassNames::allow`] is the stronger rule.
pub const DENIED: &[Cow<'static, str>] = &[
    prefix("bsh."),
    prefix("clojure."),
    prefix("com.alibaba.druid.pool."),
    prefix("com.alibaba.druid.stat."),
    prefix("com.caucho.config.types."),
    prefix("com.caucho.naming."),
    prefix("com.mchange."),
    prefix("com.mysql.cj.jdbc."),
    prefix("com.mysql.jdbc."),
    prefix("com.p6spy.engine."),
    prefix("com.rometools.rome.feed."),
    prefix("com.sun."),
    prefix("com.zaxxer.hikari."),
    prefix("groovy.lang."),
    prefix("java.awt."),
    prefix("java.beans."),
    prefix("java.lang.ProcessBuilder"),
    prefix("java.lang.ProcessImpl"),
    prefix("java.lang.Runtime."),
    prefix("java.lang.invoke."),
    prefix("java.lang.reflect."),
    prefix("java.net.Socket"),
    prefix("java.rmi."),
    prefix("java.security."),
    prefix("java.util.ServiceLoader"),
    prefix("java.util.jar."),
    prefix("java.util.logging."),
    prefix("java.util.prefs."),
    prefix("javassist."),
    prefix("javax.activation."),
    prefix("javax.imageio."),
    prefix("javax.management."),
    prefix("javax.naming."),
    prefix("javax.net."),
    prefix("javax.print."),
    prefix("javax.script."),
    prefix("javax.sound."),
    prefix("javax.swing."),
    prefix("javax.tools."),
    prefix("javax.xml.bind."),
    prefix("javax.xml.transform."),
    prefix("jdk.internal."),
    prefix("jdk.nashorn."),
    prefix("net.bytebuddy.dynamic.loading."),
    prefix("net.sf.cglib."),
    prefix("ognl."),
    prefix("oracle.jdbc."),
    prefix("org.apache.aries.transaction."),
    prefix("org.apache.bcel."),
    prefix("org.apache.carbondata.core.scan.expression."),
    prefix("org.apache.commons.beanutils."),
    prefix("org.apache.commons.codec.binary."),
    prefix("org.apache.commons.collections.functors."),
    prefix("org.apache.commons.collections4.functors."),
    prefix("org.apache.commons.configuration."),
    prefix("org.apache.commons.configuration2."),
    prefix("org.apache.commons.dbcp."),
    prefix("org.apache.commons.dbcp2."),
    prefix("org.apache.commons.fileupload."),
    prefix("org.apache.ibatis."),
    prefix("org.apache.log4j."),
    prefix("org.apache.logging."),
    prefix("org.apache.myfaces.context.servlet"),
    prefix("org.apache.openjpa.ee."),
    prefix("org.apache.shiro."),
    prefix("org.apache.tomcat.dbcp."),
    prefix("org.apache.velocity."),
    prefix("org.apache.wicket.util."),
    prefix("org.apache.xalan."),
    prefix("org.apache.xbean.naming."),
    prefix("org.apache.xpath."),
    prefix("org.aspectj."),
    prefix("org.codehaus.groovy.runtime."),
    prefix("org.eclipse.jetty.util.log."),
    prefix("org.geotools.filter."),
    prefix("org.h2.jdbcx."),
    prefix("org.h2.value."),
    prefix("org.hibernate."),
    prefix("org.jboss."),
    prefix("org.mozilla.javascript."),
    prefix("org.python.core."),
    prefix("org.quartz."),
    prefix("org.springframework.aop."),
    prefix("org.springframework.beans."),
    prefix("org.springframework.context."),
    prefix("org.springframework.expression."),
    prefix("org.springframework.jndi."),
    prefix("org.springframework.transaction."),
    prefix("org.yaml.snakeyaml."),
    prefix("sun.print."),
    prefix("sun.reflect."),
    prefix("sun.rmi."),
    prefix("sun.swing."),
    prefix("weblogic."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_list_is_sorted_and_no_entry_covers_another() {
        for pair in DENIED.windows(2) {
            assert!(pair[0] < pair[1], "{} stands before {}", pair[0], pair[1]);
            assert!(!pair[1].starts_with(pair[0].as_ref()), "{} covers {}", pair[0], pair[1]);
        }
    }

    #[test]
    fn a_rule_covers_what_begins_with_it_and_arrays_of_it() {
        let names = ClassNames::DEFAULT.deny(["com.example.Bad", "com.example.Bad$Inner", "com.a."]);
        for refused in [
            "com.example.Bad",
            "com.example.Bad$Inner",
            "com.example.Bad$Other",
            "[com.example.Bad",
            "[[Lcom.example.Bad;",
            "com.a.b.C",
            "javax.naming.InitialContext",
            "[Lcom.sun.rowset.JdbcRowSetImpl;",
        ] {
            assert!(!names.takes(refused), "{refused}");
        }
        for taken in [
            "com.example.Ba",
            "com.example.Good",
            "[int",
            "com.a",
            "",
            "java.util.TreeMap",
            "L;",
        ] {
            assert!(names.takes(taken), "{taken}");
        }
    }

    #[test]
    fn an_allow_list_takes_nothing_else_and_does_not_lift_what_is_denied() {
        let names = ClassNames::default().allow(["com.example.", "javax.naming."]);
        for taken in ["com.example.Order", "[com.example.Order", "[int", "[string"] {
            assert!(names.takes(taken), "{taken}");
        }
        for refused in [
            "com.exampl",
            "java.util.TreeMap",
            "javax.naming.Context",
            "",
            "intruder",
            "Main",
        ] {
            assert!(!names.takes(refused), "{refused}");
        }
        assert!(ClassNames::any().takes("javax.naming.Context"));
    }
}
