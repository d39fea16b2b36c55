//! The names of all tests, for pages that name the one that guards something.

use std::collections::BTreeMap;

use syn::visit::Visit;

use super::{Index, is_test_only};

/// The full path of each test, by crate as code writes its name.
pub struct Tests(BTreeMap<String, Vec<Vec<String>>>);

impl Tests {
    pub fn of(index: &Index) -> Tests {
        let mut tests: BTreeMap<String, Vec<Vec<String>>> = BTreeMap::new();
        for module in &index.modules {
            let name = module.folder.strip_prefix("crates/").unwrap_or(&module.folder);
            let krate = if name == "settle" {
                name.to_string()
            } else {
                format!("settle_{}", name.replace('-', "_"))
            };
            let mut path = Vec::new();
            // An integration test is a crate of its own; its file gives the name.
            if let Some(file) = module.file.strip_prefix(&format!("{}/tests/", module.folder)) {
                path.extend(
                    file.split('/')
                        .next()
                        .map(|file| file.trim_end_matches(".rs").to_string()),
                );
            }
            path.extend(module.path.iter().cloned());
            let mut reader = Reader {
                path,
                tests: tests.entry(krate).or_default(),
            };
            for item in &module.code {
                reader.visit_item(item);
            }
        }
        Tests(tests)
    }

    /// Whether `path` is `crate::…::name` of some test; modules in between may be left out from the front.
    pub fn has(&self, path: &str) -> bool {
        let Some((krate, rest)) = path.split_once("::") else {
            return false;
        };
        let rest: Vec<&str> = rest.split("::").collect();
        self.0.get(krate).is_some_and(|paths| {
            paths
                .iter()
                .any(|full| full.len() >= rest.len() && full[full.len() - rest.len()..].iter().eq(&rest))
        })
    }
}

struct Reader<'a> {
    path: Vec<String>,
    tests: &'a mut Vec<Vec<String>>,
}

impl Reader<'_> {
    fn add(&mut self, name: String) {
        self.tests.push(self.path.iter().cloned().chain([name]).collect());
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if is_test_only(&item.attrs) {
            self.add(item.sig.ident.to_string());
        }
    }

    /// `proptest! { #[test] fn name(…) { … } }`: every `fn name` right after a `#[test]`.
    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        let text = call.tokens.to_string();
        for after in text.split("#[test]").skip(1).chain(text.split("# [test]").skip(1)) {
            let name = after.split("fn ").nth(1).unwrap_or_default();
            let name: String = name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if !name.is_empty() {
                self.add(name);
            }
        }
    }
}
