//! What the names in one module mean, as far as the module itself says it.

use std::collections::{BTreeMap, BTreeSet};

use syn::{Item, Type, UseTree, visit::Visit};

use super::{WrittenPath, name_of};

/// The names of a module.
#[derive(Default)]
pub struct Names {
    pub bindings: BTreeMap<String, Vec<WrittenPath>>,
    pub globs: Vec<WrittenPath>,
    pub items: BTreeSet<String>,
    /// New name → library, from `extern crate library as name`.
    pub extern_crates: Vec<(String, String)>,
}

/// Collects the names that `items` make, those in function bodies included.
pub fn collect(items: &[Item]) -> Names {
    let mut names = Names::default();
    for item in items {
        if let Some(name) = item_name(item) {
            names.items.insert(name);
        }
        names.visit_item(item);
    }
    names
}

/// Each leaf of a `use` tree as a full path; for a glob, the path before the star and `true`.
pub fn use_leaves(item: &syn::ItemUse) -> Vec<UseLeaf> {
    let mut leaves = Vec::new();
    let start = WrittenPath {
        is_global: item.leading_colon.is_some(),
        segments: Vec::new(),
    };
    descend(&item.tree, start, &mut leaves);
    leaves
}

/// One imported path.
pub struct UseLeaf {
    pub path: WrittenPath,
    pub is_glob: bool,
    /// The name it gets here; `None` for a glob and for `as _`.
    pub name: Option<String>,
    /// Where its last part stands.
    pub line: usize,
}

fn descend(tree: &UseTree, mut path: WrittenPath, leaves: &mut Vec<UseLeaf>) {
    let line = |ident: &proc_macro2::Ident| ident.span().start().line;
    match tree {
        UseTree::Path(part) => {
            path.segments.push(name_of(&part.ident));
            descend(&part.tree, path, leaves);
        }
        UseTree::Name(part) => {
            let name = push_leaf(&mut path, &part.ident);
            leaves.push(UseLeaf {
                path,
                is_glob: false,
                name,
                line: line(&part.ident),
            });
        }
        UseTree::Rename(part) => {
            push_leaf(&mut path, &part.ident);
            let name = (part.rename != "_").then(|| name_of(&part.rename));
            leaves.push(UseLeaf {
                path,
                is_glob: false,
                name,
                line: line(&part.ident),
            });
        }
        UseTree::Glob(part) => {
            let line = part.star_token.spans[0].start().line;
            leaves.push(UseLeaf {
                path,
                is_glob: true,
                name: None,
                line,
            });
        }
        UseTree::Group(group) => {
            for tree in &group.items {
                descend(tree, path.clone(), leaves);
            }
        }
    }
}

/// Adds the last part of an import and returns its name; `self` names what stands before it.
fn push_leaf(path: &mut WrittenPath, ident: &proc_macro2::Ident) -> Option<String> {
    let name = name_of(ident);
    if name != "self" || path.segments.is_empty() {
        path.segments.push(name);
    }
    path.segments.last().cloned()
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        for leaf in use_leaves(item) {
            if leaf.is_glob {
                self.globs.push(leaf.path);
            } else if let Some(name) = leaf.name {
                self.bindings.entry(name).or_default().push(leaf.path);
            }
        }
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        let library = name_of(&item.ident);
        let name = item
            .rename
            .as_ref()
            .map_or_else(|| library.clone(), |(_, name)| name_of(name));
        let path = match library.as_str() {
            "self" => WrittenPath {
                is_global: false,
                segments: vec!["crate".to_string()],
            },
            _ => WrittenPath {
                is_global: true,
                segments: vec![library.clone()],
            },
        };
        self.bindings.entry(name.clone()).or_default().push(path);
        if library != "self" {
            self.extern_crates.push((name, library));
        }
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        if let Some(path) = aliased(&item.ty) {
            self.bindings.entry(name_of(&item.ident)).or_default().push(path);
        }
        syn::visit::visit_item_type(self, item);
    }

    fn visit_impl_item_type(&mut self, item: &'ast syn::ImplItemType) {
        // `Self::Name` is not followed; the path on the right is seen where it stands.
        syn::visit::visit_impl_item_type(self, item);
    }
}

/// The path a type alias stands for, when it stands for one.
fn aliased(ty: &Type) -> Option<WrittenPath> {
    match ty {
        Type::Path(path) if path.qself.is_none() => Some(WrittenPath::of(&path.path)),
        Type::Paren(inner) => aliased(&inner.elem),
        Type::Group(inner) => aliased(&inner.elem),
        _ => None,
    }
}

fn item_name(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::TraitAlias(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        _ => return None,
    };
    Some(name_of(ident))
}
