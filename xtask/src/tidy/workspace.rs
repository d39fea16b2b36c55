//! The workspace as cargo sees it: members, their folders, and the resolved dependency graph.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use cargo_metadata::{Metadata, MetadataCommand, Node, Package, PackageId};

/// What `cargo metadata` says about the repository at `root`.
pub struct Workspace {
    pub root: PathBuf,
    pub metadata: Metadata,
    members: HashSet<PackageId>,
    nodes: HashMap<PackageId, usize>,
    packages: HashMap<PackageId, usize>,
}

impl Workspace {
    /// Asks cargo about the workspace whose root manifest is `root/Cargo.toml`.
    pub fn load(root: &Path) -> anyhow::Result<Workspace> {
        let metadata = MetadataCommand::new()
            .manifest_path(root.join("Cargo.toml"))
            .exec()
            .with_context(|| format!("read the workspace at {}", root.display()))?;
        let resolve = metadata.resolve.as_ref().context("cargo resolved no dependencies")?;
        Ok(Workspace {
            root: root.to_path_buf(),
            members: metadata.workspace_members.iter().cloned().collect(),
            nodes: resolve
                .nodes
                .iter()
                .enumerate()
                .map(|(at, node)| (node.id.clone(), at))
                .collect(),
            packages: metadata
                .packages
                .iter()
                .enumerate()
                .map(|(at, p)| (p.id.clone(), at))
                .collect(),
            metadata,
        })
    }

    /// The packages of this repository.
    pub fn members(&self) -> impl Iterator<Item = &Package> {
        self.metadata
            .packages
            .iter()
            .filter(|package| self.is_member(&package.id))
    }

    /// Whether `id` is a package of this repository.
    pub fn is_member(&self, id: &PackageId) -> bool {
        self.members.contains(id)
    }

    /// The member called `name`.
    pub fn member_named(&self, name: &str) -> Option<&Package> {
        self.members().find(|package| *package.name == name)
    }

    /// The package behind `id`.
    pub fn package(&self, id: &PackageId) -> &Package {
        &self.metadata.packages[self.packages[id]]
    }

    /// The resolved dependencies of `id`.
    pub fn node(&self, id: &PackageId) -> &Node {
        let resolve = self
            .metadata
            .resolve
            .as_ref()
            .expect("load refuses metadata without it");
        &resolve.nodes[self.nodes[id]]
    }

    /// The folder of `package` below the root, e.g. `crates/tx`.
    pub fn folder(&self, package: &Package) -> String {
        let manifest = package.manifest_path.as_std_path();
        self.below_root(manifest.parent().expect("a manifest lies in a folder"))
    }

    /// `path` as it is written in findings: relative to the root, with forward slashes.
    pub fn below_root(&self, path: &Path) -> String {
        let path = path.strip_prefix(&self.root).unwrap_or(path);
        path.to_string_lossy().replace('\\', "/")
    }
}
