//! Reads every target's module tree, and every file of a crate that no target reaches.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use cargo_metadata::{Package, TargetKind};
use syn::Item;
use walkdir::WalkDir;

use super::{Index, Module, ModuleId, Unit, bindings, is_test_only, joined, name_of};
use crate::tidy::workspace::Workspace;

impl Index {
    /// Parses the workspace. A type alias in `sealed` (file, name) is taken for a type of its own.
    pub fn build(workspace: &Workspace, sealed: &[(&str, &str)]) -> anyhow::Result<Index> {
        let mut index = Index::default();
        for package in workspace.members() {
            let mut loader = Loader {
                folder: workspace.folder(package),
                externs: externs(workspace, package),
                workspace,
                index: &mut index,
                seen: BTreeSet::new(),
            };
            loader.package(package)?;
        }
        for module in &mut index.modules {
            for (_, name) in sealed.iter().filter(|(file, _)| *file == module.file) {
                module.bindings.remove(*name);
            }
        }
        Ok(index)
    }
}

/// What code in `package` may name: its resolved dependencies, its own library, and the standard library.
fn externs(workspace: &Workspace, package: &Package) -> BTreeMap<String, String> {
    let mut externs: BTreeMap<String, String> = ["std", "core", "alloc", "proc_macro", "test"]
        .map(|name| (name.to_string(), name.to_string()))
        .into();
    for dependency in &workspace.node(&package.id).deps {
        let library = library_name(workspace.package(&dependency.pkg)).unwrap_or_else(|| dependency.name.clone());
        externs.insert(dependency.name.clone(), library);
    }
    if let Some(own) = library_name(package) {
        externs.insert(own.clone(), own);
    }
    externs
}

fn library_name(package: &Package) -> Option<String> {
    let is_library = |kind: &TargetKind| {
        matches!(
            kind,
            TargetKind::Lib | TargetKind::RLib | TargetKind::ProcMacro | TargetKind::DyLib
        )
    };
    let library = package
        .targets
        .iter()
        .find(|target| target.kind.iter().any(is_library))?;
    Some(library.name.replace('-', "_"))
}

struct Loader<'a> {
    workspace: &'a Workspace,
    index: &'a mut Index,
    folder: String,
    externs: BTreeMap<String, String>,
    /// Files read for this package.
    seen: BTreeSet<PathBuf>,
}

impl Loader<'_> {
    fn package(&mut self, package: &Package) -> anyhow::Result<()> {
        let own_library = library_name(package);
        for target in &package.targets {
            let is_test = target
                .kind
                .iter()
                .any(|kind| matches!(kind, TargetKind::Test | TargetKind::Bench));
            let root = self.target(target.src_path.as_std_path(), is_test)?;
            if own_library.as_deref() == Some(&target.name.replace('-', "_"))
                && !target
                    .kind
                    .iter()
                    .any(|kind| matches!(kind, TargetKind::Bin | TargetKind::Test))
            {
                self.index.libraries.insert(target.name.replace('-', "_"), root);
            }
        }
        let folder = package.manifest_path.parent().expect("a manifest lies in a folder");
        for entry in WalkDir::new(folder).sort_by_file_name() {
            let entry = entry.with_context(|| format!("list {folder}"))?;
            let is_rust = entry.path().extension().is_some_and(|extension| extension == "rs");
            if is_rust && !self.seen.contains(entry.path()) {
                self.target(entry.path(), false)?;
            }
        }
        Ok(())
    }

    /// Reads one crate root and all below it.
    fn target(&mut self, source: &Path, is_test: bool) -> anyhow::Result<ModuleId> {
        let unit = self.index.units.len();
        let root = self.index.modules.len();
        self.index.units.push(Unit {
            root,
            externs: self.externs.clone(),
        });
        let folder = source.parent().expect("a source file lies in a folder").to_path_buf();
        let place = Place {
            unit,
            parent: None,
            path: Vec::new(),
            is_test,
        };
        self.file(source, &folder, place)?;
        Ok(root)
    }

    /// Reads the module in `source`; its child modules lie in `folder`.
    fn file(&mut self, source: &Path, folder: &Path, place: Place) -> anyhow::Result<ModuleId> {
        self.seen.insert(source.to_path_buf());
        let name = self.workspace.below_root(source);
        let text = std::fs::read_to_string(source).with_context(|| format!("read {name}"))?;
        let parsed = syn::parse_file(&text)
            .map_err(|error| anyhow::anyhow!("parse {name}:{}: {error}", error.span().start().line))?;
        let is_test = place.is_test || is_test_only(&parsed.attrs);
        self.module(source, folder, Place { is_test, ..place }, parsed.items, parsed.attrs)
    }

    fn module(
        &mut self,
        source: &Path,
        folder: &Path,
        place: Place,
        items: Vec<Item>,
        attributes: Vec<syn::Attribute>,
    ) -> anyhow::Result<ModuleId> {
        let id = self.index.modules.len();
        let (modules, code): (Vec<_>, Vec<_>) = items.into_iter().partition(|item| matches!(item, Item::Mod(_)));
        self.index.modules.push(Module {
            unit: place.unit,
            folder: self.folder.clone(),
            file: self.workspace.below_root(source),
            path: place.path.clone(),
            is_test: place.is_test,
            parent: place.parent,
            children: BTreeMap::new(),
            bindings: BTreeMap::new(),
            globs: Vec::new(),
            items: BTreeSet::new(),
            code: Vec::new(),
            attributes,
        });
        let names = bindings::collect(&code);
        // A crate renamed by `extern crate` at the root is known by its new name everywhere in the target.
        if place.parent.is_none() {
            for (name, library) in &names.extern_crates {
                self.index.units[place.unit]
                    .externs
                    .insert(name.clone(), library.clone());
            }
        }
        let module = &mut self.index.modules[id];
        (module.bindings, module.globs, module.items) = (names.bindings, names.globs, names.items);
        module.code = code;
        for item in modules {
            if let Item::Mod(item) = item {
                self.child(source, folder, &place, id, item)?;
            }
        }
        Ok(id)
    }

    fn child(
        &mut self,
        source: &Path,
        folder: &Path,
        place: &Place,
        parent: ModuleId,
        item: syn::ItemMod,
    ) -> anyhow::Result<()> {
        let name = name_of(&item.ident);
        let below = Place {
            unit: place.unit,
            parent: Some(parent),
            path: place.path.iter().cloned().chain([name.clone()]).collect(),
            is_test: place.is_test || is_test_only(&item.attrs),
        };
        let child = if let Some((_, items)) = item.content {
            self.module(source, &folder.join(&name), below, items, item.attrs)?
        } else {
            let Some((file, folder)) = file_of(source, folder, &name, &item.attrs) else {
                return Ok(());
            };
            self.file(&file, &folder, below)?
        };
        self.index.modules[parent].children.insert(name, child);
        Ok(())
    }
}

/// Where a module stands.
struct Place {
    unit: usize,
    parent: Option<ModuleId>,
    path: Vec<String>,
    is_test: bool,
}

/// The file of `mod name;` and the folder of its own children. `None` when there is none, as behind a false `cfg`.
fn file_of(source: &Path, folder: &Path, name: &str, attributes: &[syn::Attribute]) -> Option<(PathBuf, PathBuf)> {
    if let Some(path) = attributes.iter().find_map(path_attribute) {
        let file = joined(source.parent()?, &path);
        let below = file.parent()?.to_path_buf();
        return file.is_file().then_some((file, below));
    }
    let plain = folder.join(format!("{name}.rs"));
    if plain.is_file() {
        return Some((plain, folder.join(name)));
    }
    let nested = folder.join(name).join("mod.rs");
    nested.is_file().then(|| (nested, folder.join(name)))
}

fn path_attribute(attribute: &syn::Attribute) -> Option<String> {
    if !attribute.path().is_ident("path") {
        return None;
    }
    match &attribute.meta.require_name_value().ok()?.value {
        syn::Expr::Lit(syn::ExprLit {
            lit: syn::Lit::Str(path),
            ..
        }) => Some(path.value()),
        _ => None,
    }
}
