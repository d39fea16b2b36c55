//! The source of every crate, parsed, with enough name resolution to say what a path really means.
//!
//! It is deliberately wider than the compiler: a name that could mean two things means both, code behind any `cfg` is
//! read, and a `use` inside a function counts for its whole module. So a wall may complain about code that the compiler
//! would read otherwise; it does not miss an alias.

mod bindings;
mod load;
mod resolve;
mod test_names;
mod tokens;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

pub use bindings::use_leaves;
pub use resolve::Meaning;
pub use test_names::Tests;
pub use tokens::token_paths;

/// A module of some target of some crate, by its place in [`Index::modules`].
pub type ModuleId = usize;

/// Every module of every target of the workspace.
#[derive(Default)]
pub struct Index {
    pub modules: Vec<Module>,
    /// What a crate's code may name by an extern crate name, one table per target.
    units: Vec<Unit>,
    /// The root module of each library, by the name code uses for it.
    libraries: BTreeMap<String, ModuleId>,
}

/// One target: a library, a binary, an integration test, …
struct Unit {
    root: ModuleId,
    /// Extern crate name → the name of the library behind it.
    externs: BTreeMap<String, String>,
}

/// One module with what its names mean.
pub struct Module {
    unit: usize,
    /// The folder of the crate below the root, e.g. `crates/tx`.
    pub folder: String,
    /// Relative to the root of the repository.
    pub file: String,
    /// The way from the root of its target, e.g. `["session", "tests"]`.
    pub path: Vec<String>,
    /// Whether it is compiled for tests only.
    pub is_test: bool,
    parent: Option<ModuleId>,
    children: BTreeMap<String, ModuleId>,
    /// What `use`, `extern crate` and `type` make a name mean.
    bindings: BTreeMap<String, Vec<WrittenPath>>,
    globs: Vec<WrittenPath>,
    /// Names of items that are defined here.
    items: BTreeSet<String>,
    /// The items, without inline modules: those have a [`Module`] of their own.
    pub code: Vec<syn::Item>,
    /// Inner attributes of the file.
    pub attributes: Vec<syn::Attribute>,
}

/// A path as written: its segments, and whether it starts with `::`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct WrittenPath {
    pub is_global: bool,
    pub segments: Vec<String>,
}

impl WrittenPath {
    /// The path as `syn` has it, without generic arguments.
    pub fn of(path: &syn::Path) -> WrittenPath {
        WrittenPath {
            is_global: path.leading_colon.is_some(),
            segments: path.segments.iter().map(|segment| name_of(&segment.ident)).collect(),
        }
    }
}

impl Index {
    /// The target's root module that `module` belongs to.
    fn root_of(&self, module: ModuleId) -> ModuleId {
        self.units[self.modules[module].unit].root
    }
}

/// An identifier without `r#`: raw and plain spelling mean the same.
fn name_of(ident: &proc_macro2::Ident) -> String {
    let text = ident.to_string();
    text.strip_prefix("r#").map(str::to_string).unwrap_or(text)
}

/// Whether the attributes make an item part of the tests: `#[test]`, `#[tokio::test]`, `#[cfg(test)]`.
pub fn is_test_only(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        if attribute.path().is_ident("cfg") {
            return matches!(&attribute.meta, syn::Meta::List(list) if list.tokens.to_string() == "test");
        }
        attribute
            .path()
            .segments
            .last()
            .is_some_and(|last| last.ident == "test")
    })
}

/// `path` joined to `folder` without looking at the disk.
fn joined(folder: &Path, path: &str) -> PathBuf {
    let mut joined = folder.to_path_buf();
    for part in Path::new(path).components() {
        match part {
            std::path::Component::ParentDir => {
                joined.pop();
            }
            std::path::Component::CurDir => {}
            part => joined.push(part),
        }
    }
    joined
}
