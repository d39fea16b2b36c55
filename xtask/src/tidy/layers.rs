//! The table of layers: which crate lies where, and who may use whom.

use cargo_metadata::DependencyKind;

/// Where a crate stands. Dependencies point from a later variant to an earlier one, as [`may_use`] says in full.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Layer {
    /// L0: ids, sizes, ticks; std and thiserror.
    Base,
    /// L1: bytes ⇄ types of one upstream wire.
    Codec,
    /// L1: a trait that a wall of the design stands on.
    Seam,
    /// L2: a pure state machine.
    Core,
    /// L3: a seam over real files.
    Disk,
    /// L4: threads, sockets, timers.
    Runtime,
    /// L5: a front door or a feature.
    Service,
    /// What an application links: bytes and sockets of one upstream wire, nothing of the server.
    Client,
    /// L6: the executable.
    Binary,
    /// A program that shows what the layers below are for; tests itself in the simulator.
    Example,
    /// Simulator and test harness: uses all, shipped in nothing.
    TestOnly,
    /// Tools of the repository.
    Tool,
}

impl Layer {
    /// Whether time, randomness, files, sockets and threads are forbidden here (L0–L2).
    pub fn is_pure(self) -> bool {
        matches!(self, Layer::Base | Layer::Codec | Layer::Seam | Layer::Core)
    }
}

/// Every folder of the workspace with its layer. A crate that is missing here is a finding.
const LAYERS: &[(&str, Layer)] = &[
    ("crates/base", Layer::Base),
    ("crates/seata-wire", Layer::Codec),
    ("crates/hessian", Layer::Codec),
    ("crates/hessian-derive", Layer::Codec),
    ("crates/bolt", Layer::Codec),
    ("crates/sofarpc-wire", Layer::Codec),
    ("crates/machine", Layer::Seam),
    ("crates/storage", Layer::Seam),
    ("crates/raft", Layer::Core),
    ("crates/wal", Layer::Core),
    ("crates/host", Layer::Core),
    ("crates/history", Layer::Core),
    ("crates/kv", Layer::Core),
    ("crates/tx", Layer::Core),
    ("crates/tx-gate", Layer::Core),
    ("crates/disk-file", Layer::Disk),
    ("crates/auth", Layer::Runtime),
    ("crates/node", Layer::Runtime),
    ("crates/net", Layer::Runtime),
    ("crates/telemetry", Layer::Runtime),
    ("crates/tx-server", Layer::Service),
    ("crates/sdk", Layer::Client),
    ("crates/sdk-at", Layer::Client),
    ("crates/settle", Layer::Binary),
    ("crates/sim", Layer::TestOnly),
    ("crates/testkit", Layer::TestOnly),
    ("examples/bank-ledger", Layer::Example),
    ("examples/counter", Layer::Example),
    ("examples/range-map", Layer::TestOnly),
    ("xtask", Layer::Tool),
];

/// The sideways uses that the design names; see docs/adr/0001-tx-gate-uses-tx.md for the last of the cores and
/// docs/adr/0004-sofarpc-wire-uses-codecs.md for the codecs.
const SIDEWAYS: &[(&str, &str)] = &[
    ("crates/hessian", "crates/hessian-derive"),
    ("crates/sdk-at", "crates/sdk"),
    ("crates/sofarpc-wire", "crates/bolt"),
    ("crates/sofarpc-wire", "crates/hessian"),
    ("crates/host", "crates/raft"),
    ("crates/host", "crates/wal"),
    ("crates/tx-gate", "crates/tx"),
    ("crates/node", "crates/net"),
    ("crates/node", "crates/telemetry"),
    ("crates/net", "crates/telemetry"),
];

/// The layer of `folder`, if the table has it.
pub fn layer_of(folder: &str) -> Option<Layer> {
    LAYERS
        .iter()
        .find(|(known, _)| *known == folder)
        .map(|&(_, layer)| layer)
}

/// Why `user` may not depend on `used` in this `kind`, or `Ok`. Both are folders with their layers.
pub fn may_use(user: (&str, Layer), used: (&str, Layer), kind: DependencyKind) -> Result<(), String> {
    use Layer::{Base, Binary, Client, Codec, Core, Disk, Example, Runtime, Seam, Service, TestOnly, Tool};
    let ((user_folder, user_layer), (used_folder, used_layer)) = (user, used);
    // A crate's tests may ask for its own features.
    if user_folder == used_folder && kind == DependencyKind::Development {
        return Ok(());
    }
    if SIDEWAYS.contains(&(user_folder, used_folder)) || (user_layer == Tool && used_layer != Tool) {
        return Ok(());
    }
    if used_folder == "crates/testkit" && kind == DependencyKind::Development && user_layer >= Runtime {
        return Ok(());
    }
    let allowed = match user_layer {
        Base => false,
        Codec | Seam => used_layer == Base,
        Core => matches!(used_layer, Base | Seam),
        Disk => matches!(used_layer, Base | Seam),
        Client => matches!(used_layer, Base | Codec),
        Runtime | Service | Binary => used_layer < user_layer,
        Example => used_layer < Binary || used_folder == "crates/sim" && kind == DependencyKind::Development,
        TestOnly => {
            used_layer < Binary
                || user_folder == "crates/sim"
                    && (used_folder == "crates/testkit" || used_folder.starts_with("examples/"))
        }
        Tool => false,
    };
    if allowed {
        return Ok(());
    }
    Err(match (user_layer, used_layer) {
        (Core, Codec) => format!("a core knows no wire: {user_folder} may not use the codec {used_folder}"),
        (_, TestOnly) => format!("{used_folder} is for tests only; as a dev-dependency, testkit serves L4 and above"),
        _ if used_layer > user_layer => {
            format!(
                "dependencies point down: {user_folder} ({user_layer:?}) may not use {used_folder} ({used_layer:?})"
            )
        }
        _ => format!("{user_folder} → {used_folder} is a sideways use that the design does not name"),
    })
}
