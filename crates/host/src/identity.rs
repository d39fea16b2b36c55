//! Who a data directory is: written before the node says its first word, so that a directory that was lost can never be
//! mistaken for the one that voted.

use std::fmt;

use bytes::{BufMut, Bytes};
use settle_base::{NodeId, PeerId};
use settle_storage::{Disk, DiskError, DiskErrorKind, DiskRead, FileName, Op};

use crate::{
    OpenError,
    wire::{Decoded, Malformed, Reader, put_count, put_string},
};

const MAGIC: u64 = u64::from_le_bytes(*b"settleid");
const FORMAT_VERSION: u16 = 1;
/// The longest peer address, in bytes.
pub(crate) const ADDRESS_BYTES_MAX: usize = 255;
const IDENTITY_BYTES_MAX: usize = 64 << 10;

/// A cluster's random identity, made when it is founded. Nodes of different clusters never talk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{:032x}", self.0)
    }
}

/// One replica and where it lives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    pub peer: PeerId,
    pub node: NodeId,
    pub address: String,
    /// It keeps the log but no machine, see [`HostConfig::witness`](crate::HostConfig::witness).
    pub witness: bool,
}

/// The contents of the file `identity`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    pub node: NodeId,
    /// Random, made with the directory: this replica's name in consensus.
    pub incarnation: PeerId,
    /// What the directory was made for, and stays: a replica that keeps the log but no machine.
    pub witness: bool,
    /// `None`: belongs to no cluster yet, has never voted.
    pub cluster: Option<ClusterId>,
    /// Who the cluster was founded of; empty without a cluster.
    pub founders: Vec<Member>,
}

impl Identity {
    /// Whether this very directory was one of those that the cluster was founded of.
    pub fn is_founder(&self) -> bool {
        let me = |m: &Member| m.peer == self.incarnation && m.node == self.node;
        self.founders.iter().any(me)
    }

    /// Reads the directory's identity, or gives it its first one. Blocks.
    ///
    /// # Errors
    /// When the directory is another node's, of the other kind, of a newer format, damaged, or has a log but no identity.
    pub fn open(
        disk: &mut (impl Disk + DiskRead),
        node: NodeId,
        witness: bool,
        fresh: PeerId,
    ) -> Result<Identity, OpenError> {
        let files = disk.list().map_err(|source| OpenError::Disk { source })?;
        let name = identity_file();
        if !files.iter().any(|(file, _)| *file == name) {
            if let Some((file, _)) = files.iter().find(|(file, _)| !file.as_str().ends_with(".tmp")) {
                return Err(OpenError::IdentityMissing { file: file.clone() });
            }
            let identity = Identity {
                node,
                incarnation: match settle_base::mutant!("peer_id_reuse") {
                    true => PeerId(u64::from(node.0)),
                    false => fresh,
                },
                witness,
                cluster: None,
                founders: Vec::new(),
            };
            identity.write(disk).map_err(|source| OpenError::Disk { source })?;
            return Ok(identity);
        }
        let bytes = disk
            .read(&name, 0, IDENTITY_BYTES_MAX)
            .map_err(|source| OpenError::Disk { source })?;
        let identity = Identity::decode(bytes)?;
        if identity.node != node {
            return Err(OpenError::OtherNode {
                configured: node,
                found: identity.node,
            });
        }
        if identity.witness != witness {
            return Err(OpenError::OtherKind { configured: witness });
        }
        Ok(identity)
    }

    /// Replaces the file atomically; durable on return. Blocks.
    ///
    /// # Errors
    /// When the disk fails; the old identity then still stands.
    pub fn write(&self, disk: &mut (impl Disk + DiskRead)) -> Result<(), DiskError> {
        let temporary = FileName::new("identity.tmp").expect("a valid name");
        disk.run(Op::Create {
            file: temporary.clone(),
            reserve: 0,
        })?;
        disk.run(Op::Write {
            file: temporary.clone(),
            offset: 0,
            data: self.encode(),
        })?;
        disk.run(Op::Sync {
            file: temporary.clone(),
        })?;
        disk.run(Op::Rename {
            from: temporary,
            to: identity_file(),
        })
    }

    fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(128);
        out.put_u64_le(MAGIC);
        out.put_u16_le(FORMAT_VERSION);
        out.put_u32_le(self.node.0);
        out.put_u64_le(self.incarnation.0);
        out.put_u8(u8::from(self.witness));
        out.put_u128_le(self.cluster.map_or(0, |c| c.0));
        put_members(&mut out, &self.founders);
        out.put_u32_le(crc32c::crc32c(&out));
        out.into()
    }

    fn decode(bytes: Bytes) -> Result<Identity, OpenError> {
        let damaged = |_: Malformed| OpenError::IdentityDamaged;
        let mut header = Reader::new(bytes.clone(), "the identity file");
        if header.u64().map_err(damaged)? != MAGIC {
            return Err(OpenError::IdentityDamaged);
        }
        let version = header.u16().map_err(damaged)?;
        if version > FORMAT_VERSION {
            return Err(OpenError::NewerFormat {
                found: version,
                known: FORMAT_VERSION,
            });
        }
        if bytes.len() < 4 {
            return Err(OpenError::IdentityDamaged);
        }
        let (body, crc) = bytes.split_at(bytes.len() - 4);
        if crc32c::crc32c(body).to_le_bytes() != crc {
            return Err(OpenError::IdentityDamaged);
        }
        let mut reader = Reader::new(bytes.slice(10..bytes.len() - 4), "the identity file");
        let identity = (|| {
            let identity = Identity {
                node: NodeId(reader.u32()?),
                incarnation: PeerId(reader.u64()?),
                witness: reader.bool()?,
                cluster: Some(ClusterId(reader.u128()?)).filter(|c| c.0 != 0),
                founders: members(&mut reader)?,
            };
            reader.finish()?;
            Ok(identity)
        })();
        identity.map_err(damaged)
    }
}

pub(crate) fn identity_file() -> FileName {
    FileName::new("identity").expect("a valid name")
}

pub(crate) fn put_members(out: &mut impl BufMut, members: &[Member]) {
    put_count(out, members.len());
    for member in members {
        out.put_u64_le(member.peer.0);
        out.put_u32_le(member.node.0);
        put_string(out, &member.address);
        out.put_u8(u8::from(member.witness));
    }
}

pub(crate) fn members(reader: &mut Reader) -> Decoded<Vec<Member>> {
    let count = reader.count(15)?;
    let mut members = Vec::with_capacity(count);
    for _ in 0..count {
        members.push(Member {
            peer: PeerId(reader.u64()?),
            node: NodeId(reader.u32()?),
            address: reader.string(ADDRESS_BYTES_MAX)?,
            witness: reader.bool()?,
        });
    }
    Ok(members)
}

/// Whether the disk gave up for lack of space, which may pass.
pub(crate) fn is_full(error: &DiskError) -> bool {
    error.kind == DiskErrorKind::NoSpace
}
