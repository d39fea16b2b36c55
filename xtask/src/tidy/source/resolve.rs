//! From a written path to what it may mean, through imports, aliases, globs and re-exports of other crates.

use std::collections::BTreeSet;

use super::{Index, ModuleId, WrittenPath};

/// What a path may mean.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Meaning {
    /// Something outside the workspace, by its full path: `["std", "time", "Instant"]`.
    Outside(Vec<String>),
    /// A module of the workspace.
    Module(ModuleId),
    /// An item defined in a module of the workspace, and what follows it: a variant, an associated function.
    Item(ModuleId, Vec<String>),
}

/// One (module, name) that is being looked up: a cycle of imports adds nothing.
type Pending = BTreeSet<(ModuleId, String)>;

impl Index {
    /// Everything that `path`, written in `module`, may mean.
    pub fn resolve(&self, module: ModuleId, path: &WrittenPath) -> BTreeSet<Meaning> {
        self.resolve_pending(module, path, &mut Pending::new())
    }

    fn resolve_pending(&self, module: ModuleId, path: &WrittenPath, pending: &mut Pending) -> BTreeSet<Meaning> {
        let Some((first, mut rest)) = path.segments.split_first() else {
            return BTreeSet::new();
        };
        let starts = match first.as_str() {
            _ if path.is_global => self.extern_crate(module, first).into_iter().collect(),
            "crate" | "$crate" => BTreeSet::from([Meaning::Module(self.root_of(module))]),
            "self" => BTreeSet::from([Meaning::Module(module)]),
            "super" => {
                let mut at = self.modules[module].parent;
                while let Some(("super", below)) = rest.split_first().map(|(name, below)| (name.as_str(), below)) {
                    (at, rest) = (at.and_then(|at| self.modules[at].parent), below);
                }
                at.map(Meaning::Module).into_iter().collect()
            }
            _ => {
                let mut starts = self.look_up(module, first, pending);
                starts.extend(self.extern_crate(module, first));
                starts
            }
        };
        let mut meanings = BTreeSet::new();
        for start in starts {
            self.walk(start, rest, pending, &mut meanings);
        }
        meanings
    }

    /// Follows `rest` from `start`.
    fn walk(&self, start: Meaning, rest: &[String], pending: &mut Pending, meanings: &mut BTreeSet<Meaning>) {
        let Some((next, below)) = rest.split_first() else {
            meanings.insert(start);
            return;
        };
        match start {
            Meaning::Outside(mut path) => {
                path.extend_from_slice(rest);
                meanings.insert(Meaning::Outside(path));
            }
            Meaning::Item(module, mut path) => {
                path.extend_from_slice(rest);
                meanings.insert(Meaning::Item(module, path));
            }
            Meaning::Module(module) => {
                for found in self.look_up(module, next, pending) {
                    self.walk(found, below, pending, meanings);
                }
            }
        }
    }

    /// What `name` may mean inside `module`. A glob counts only where no explicit name stands, as for the compiler.
    fn look_up(&self, module: ModuleId, name: &str, pending: &mut Pending) -> BTreeSet<Meaning> {
        let key = (module, name.to_string());
        if !pending.insert(key.clone()) {
            return BTreeSet::new();
        }
        let here = &self.modules[module];
        let mut found = BTreeSet::new();
        if let Some(&child) = here.children.get(name) {
            found.insert(Meaning::Module(child));
        }
        for path in here.bindings.get(name).into_iter().flatten() {
            found.extend(self.resolve_pending(module, path, pending));
        }
        if here.items.contains(name) {
            found.insert(Meaning::Item(module, vec![name.to_string()]));
        }
        if found.is_empty() {
            for glob in &here.globs {
                for source in self.resolve_pending(module, glob, pending) {
                    match source {
                        Meaning::Module(source) => found.extend(self.look_up(source, name, pending)),
                        Meaning::Outside(mut path) => {
                            path.push(name.to_string());
                            found.insert(Meaning::Outside(path));
                        }
                        Meaning::Item(..) => {}
                    }
                }
            }
        }
        pending.remove(&key);
        found
    }

    /// The crate that `name` means as an extern crate, if there is one.
    fn extern_crate(&self, module: ModuleId, name: &str) -> Option<Meaning> {
        let library = self.units[self.modules[module].unit].externs.get(name)?;
        Some(match self.libraries.get(library) {
            Some(&root) => Meaning::Module(root),
            None => Meaning::Outside(vec![library.clone()]),
        })
    }
}
