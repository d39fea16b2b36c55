//! What the code of L0–L2 may not name: clocks, files, sockets, threads, processes, unseeded randomness and hashing.
//!
//! Test code is held to the same: a test of a core that reads a clock cannot be replayed.

use std::collections::BTreeSet;

use syn::visit::Visit;

use super::{
    Findings, Place,
    dependencies::IMPURE_PACKAGES,
    layers::layer_of,
    source::{Index, Meaning, Module, ModuleId, WrittenPath, is_test_only, token_paths, use_leaves},
};

const RULE: &str = "pure-source";

/// Paths that no pure crate may name, with everything below them, and what to do instead.
const IMPURE_PATHS: &[(&str, &str)] = &[
    ("std::time::Instant", "time is an argument: take a `settle_base::Mono`"),
    (
        "std::time::SystemTime",
        "time is an argument: take a `settle_base::GroupTime`",
    ),
    (
        "std::time::UNIX_EPOCH",
        "time is an argument: take a `settle_base::GroupTime`",
    ),
    (
        "std::net",
        "sockets belong to `net`; addresses as data are in `core::net`",
    ),
    ("std::fs", "bytes reach a disk through `storage::Disk`"),
    (
        "std::path",
        "its methods read the file system: name a file by a string and leave it to L3",
    ),
    ("std::thread", "threads belong to L3 and L4: return an action"),
    (
        "std::process",
        "a core neither starts nor ends a process: return an action or an error",
    ),
    ("std::env", "configuration is an argument"),
    ("std::os", "system calls belong to L3 and L4"),
    (
        "std::arch",
        "it reads clocks and entropy: use a crate with a portable interface",
    ),
    ("libc", "system calls belong to L3"),
    (
        "core::arch",
        "it reads clocks and entropy: use a crate with a portable interface",
    ),
    (
        "std::collections::HashMap",
        "its order is random: use `settle_base::FixedMap` or `BTreeMap`",
    ),
    (
        "std::collections::HashSet",
        "its order is random: use `settle_base::FixedSet` or `BTreeSet`",
    ),
    (
        "std::collections::hash_map::HashMap",
        "its order is random: use `settle_base::FixedMap` or `BTreeMap`",
    ),
    (
        "std::collections::hash_set::HashSet",
        "its order is random: use `settle_base::FixedSet` or `BTreeSet`",
    ),
    (
        "std::collections::hash_map::RandomState",
        "it is seeded by the system: use `settle_base::FixedState`",
    ),
    (
        "std::collections::hash_map::DefaultHasher",
        "its result may change with the compiler: use `settle_base::fingerprint`",
    ),
    (
        "std::hash::RandomState",
        "it is seeded by the system: use `settle_base::FixedState`",
    ),
    (
        "std::hash::DefaultHasher",
        "its result may change with the compiler: use `settle_base::fingerprint`",
    ),
    ("std::io::stdin", "input is an argument"),
    ("std::io::stdout", "output is an action"),
    ("std::io::stderr", "output is an action"),
    ("std::io::Stdin", "input is an argument"),
    ("std::io::Stdout", "output is an action"),
    ("std::io::Stderr", "output is an action"),
    ("std::sync::mpsc", "it blocks a thread: return an action"),
    (
        "std::sync::Condvar",
        "it blocks a thread and reads a clock: return an action",
    ),
    ("std::sync::Barrier", "it blocks a thread: return an action"),
];

/// Macros that write to the terminal; tests may use them.
const PRINTING_MACROS: [&str; 5] = ["print", "println", "eprint", "eprintln", "dbg"];

/// Type names so telling that even a bare mention among a macro's tokens counts when nothing local has the name.
const TELLING_NAMES: [&str; 5] = ["Instant", "SystemTime", "HashMap", "HashSet", "RandomState"];

/// A file that may name an impure path after all.
struct Exception {
    file: &'static str,
    paths: &'static [&'static str],
    #[allow(dead_code, reason = "the table must say why; only its reader needs it")]
    reason: &'static str,
}

const EXCEPTIONS: &[Exception] = &[
    Exception {
        file: "crates/base/src/hash.rs",
        paths: &["std::collections::HashMap", "std::collections::HashSet"],
        reason: "FixedMap and FixedSet are std's maps with a fixed hasher",
    },
    Exception {
        file: "crates/hessian/src/typed/hashed.rs",
        paths: &["std::collections::HashMap", "std::collections::HashSet"],
        reason: "the maps of whoever uses the codec can be written and read; it has none itself",
    },
    Exception {
        file: "crates/raft/tests/random_cluster.rs",
        paths: &["std::env::var"],
        reason: "it names the seeds to replay or to search; the run itself depends on the seed alone",
    },
    Exception {
        file: "crates/raft/tests/differential.rs",
        paths: &["std::env::var"],
        reason: "it names the scripts to replay or to search; the run itself depends on the seed alone",
    },
];

/// Aliases that make a pure type out of an impure one: (file, name).
pub const SEALED: &[(&str, &str)] = &[
    ("crates/base/src/hash.rs", "FixedMap"),
    ("crates/base/src/hash.rs", "FixedSet"),
];

/// Crates above the walls that still touch no file: what they must keep goes through `Disk`.
const WITHOUT_FILES: [&str; 3] = ["crates/net", "crates/telemetry", "crates/tx-server"];

/// Checks every module of every crate that has a wall.
pub fn check(index: &Index, findings: &mut Findings) {
    let packages: BTreeSet<String> = IMPURE_PACKAGES.iter().map(|(name, _)| name.replace('-', "_")).collect();
    for (id, module) in index.modules.iter().enumerate() {
        let wall = match layer_of(&module.folder) {
            Some(layer) if layer.is_pure() => Wall::Pure,
            _ if WITHOUT_FILES.contains(&module.folder.as_str()) => Wall::NoFiles,
            _ => continue,
        };
        let mut reader = Reader {
            wall,
            packages: &packages,
            index,
            module,
            id,
            is_test: module.is_test,
            findings,
        };
        for attribute in &module.attributes {
            reader.visit_attribute(attribute);
        }
        for item in &module.code {
            reader.visit_item(item);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wall {
    Pure,
    NoFiles,
}

struct Reader<'a> {
    wall: Wall,
    packages: &'a BTreeSet<String>,
    index: &'a Index,
    module: &'a Module,
    id: ModuleId,
    is_test: bool,
    findings: &'a mut Findings,
}

impl Reader<'_> {
    /// Complains when `path` may mean something behind the wall.
    fn written(&mut self, path: &WrittenPath, line: usize) {
        for meaning in self.index.resolve(self.id, path) {
            if let Meaning::Outside(full) = meaning {
                self.outside(path, &full, line);
            }
        }
    }

    fn outside(&mut self, written: &WrittenPath, full: &[String], line: usize) {
        let Some(instead) = self.behind_wall(full) else {
            return;
        };
        let written = written.segments.join("::");
        let meant = full.join("::");
        let what = match written == meant {
            true => format!("`{meant}`"),
            false => format!("`{written}`, which means `{meant}`,"),
        };
        self.complain(line, format!("{what} is not for {}: {instead}", self.module.folder));
    }

    /// What to do instead, when `full` is behind the wall.
    fn behind_wall(&self, full: &[String]) -> Option<&'static str> {
        if self.wall == Wall::NoFiles {
            let is_files = starts_with(full, "std::fs") || starts_with(full, "tokio::fs");
            return is_files.then_some("bytes reach a disk through `storage::Disk`");
        }
        let excused = EXCEPTIONS.iter().find(|exception| exception.file == self.module.file);
        if excused.is_some_and(|exception| exception.paths.iter().any(|path| starts_with(full, path))) {
            return None;
        }
        if let Some((_, instead)) = IMPURE_PATHS.iter().find(|(path, _)| starts_with(full, path)) {
            return Some(instead);
        }
        full.first()
            .filter(|first| self.packages.contains(*first))
            .map(|_| "the pure layers do without it")
    }

    /// Reads a token stream: paths in it, and paths that the macro could complete to something behind the wall.
    fn tokens(&mut self, tokens: &proc_macro2::TokenStream) {
        for found in token_paths(tokens) {
            self.written(&found.path, found.line);
            if self.wall != Wall::Pure {
                continue;
            }
            let meanings = self.index.resolve(self.id, &found.path);
            let written = found.path.segments.join("::");
            if let Some(full) = meanings.iter().find_map(|meaning| match meaning {
                Meaning::Outside(full) if full != &["core"] && is_above_wall(full) => Some(full.join("::")),
                _ => None,
            }) {
                let message =
                    format!("`{written}` in a macro means `{full}`, which it may complete: write paths in full");
                self.complain(found.line, message);
            }
            if let [name] = found.path.segments.as_slice() {
                if meanings.is_empty() && TELLING_NAMES.contains(&name.as_str()) {
                    self.complain(
                        found.line,
                        format!("`{name}` in a macro may mean the standard library's"),
                    );
                }
                if found.is_macro_call {
                    self.macro_name(name, found.line);
                }
            }
        }
    }

    fn macro_name(&mut self, name: &str, line: usize) {
        if PRINTING_MACROS.contains(&name) && !self.is_test {
            self.complain(line, format!("`{name}!` writes to the terminal: output is an action"));
        }
        if name == "include" {
            self.complain(
                line,
                "`include!` brings in code that this check does not see".to_string(),
            );
        }
    }

    fn complain(&mut self, line: usize, message: String) {
        self.findings.add(Place::line(&self.module.file, line), RULE, message);
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let was_test = self.is_test;
        self.is_test |= is_test_only(attributes_of(item));
        syn::visit::visit_item(self, item);
        self.is_test = was_test;
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        for leaf in use_leaves(item) {
            self.written(&leaf.path, leaf.line);
        }
    }

    fn visit_item_foreign_mod(&mut self, item: &'ast syn::ItemForeignMod) {
        if self.wall == Wall::Pure {
            let line = item.abi.extern_token.span.start().line;
            self.complain(
                line,
                "foreign functions may do anything: they belong to L3 and above".to_string(),
            );
        }
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        let path = WrittenPath {
            is_global: true,
            segments: vec![item.ident.to_string()],
        };
        self.written(&path, item.ident.span().start().line);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if let Some(first) = path.segments.first() {
            self.written(&WrittenPath::of(path), first.ident.span().start().line);
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.visit_path(&call.path);
        if let (Wall::Pure, Some(name)) = (self.wall, call.path.segments.last()) {
            self.macro_name(&name.ident.to_string(), name.ident.span().start().line);
        }
        self.tokens(&call.tokens);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if let syn::Meta::List(list) = &attribute.meta {
            self.tokens(&list.tokens);
        }
        syn::visit::visit_attribute(self, attribute);
    }
}

fn attributes_of(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn starts_with(full: &[String], wall: &str) -> bool {
    let mut full = full.iter();
    wall.split("::")
        .all(|part| full.next().is_some_and(|segment| segment == part))
}

/// Whether `full` is a part of the standard library with something behind the wall below it.
fn is_above_wall(full: &[String]) -> bool {
    IMPURE_PATHS.iter().any(|(wall, _)| {
        let mut wall = wall.split("::");
        full.iter().all(|segment| wall.next() == Some(segment)) && wall.next().is_some()
    })
}
