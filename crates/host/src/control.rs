//! What the host itself puts into a group's log: commands that every replica's host follows at the same place in the
//! history, whatever the machine. One version byte, one kind byte, little-endian fields.

use bytes::{BufMut, Bytes};
use settle_base::{Index, NodeId};

use crate::wire::{Decoded, Reader};

const VERSION: u8 = 1;

/// The data of an entry of [`EntryKind::Host`](settle_raft::EntryKind::Host).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostCommand {
    /// From the next entry on, machines apply as of cluster version `version`. A version that is not above the one in
    /// force changes nothing. `by` is the node that an operator asked, `at_ms` the wall time there, for display.
    ClusterVersion { version: u32, by: NodeId, at_ms: u64 },
    /// For the next `valid_ms` of the group's time an empty directory that comes back under `node`'s id may take the place
    /// of the one that is lost; once. `by` and `at_ms` as above. Nothing for a node that is no member.
    AllowReplace {
        node: NodeId,
        by: NodeId,
        at_ms: u64,
        valid_ms: u64,
    },
    /// Every replica notes its machine's hash here, to be compared. See `hashes.rs`.
    HashMark,
    /// A majority of the full voters had `hash` at the mark at `index`.
    HashVerdict { index: Index, hash: u64 },
}

impl HostCommand {
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(26);
        out.put_u8(VERSION);
        match self {
            HostCommand::ClusterVersion { version, by, at_ms } => {
                out.put_u8(1);
                out.put_u32_le(*version);
                out.put_u32_le(by.0);
                out.put_u64_le(*at_ms);
            }
            HostCommand::AllowReplace {
                node,
                by,
                at_ms,
                valid_ms,
            } => {
                out.put_u8(2);
                out.put_u32_le(node.0);
                out.put_u32_le(by.0);
                out.put_u64_le(*at_ms);
                out.put_u64_le(*valid_ms);
            }
            HostCommand::HashMark => out.put_u8(3),
            HostCommand::HashVerdict { index, hash } => {
                out.put_u8(4);
                out.put_u64_le(*index);
                out.put_u64_le(*hash);
            }
        }
        out.into()
    }

    /// # Errors
    /// When the bytes are no command of this version, or more than one.
    pub fn decode(bytes: Bytes) -> Decoded<HostCommand> {
        let mut reader = Reader::new(bytes, "a host's command");
        if reader.u8()? != VERSION {
            return reader.malformed();
        }
        let command = match reader.u8()? {
            1 => HostCommand::ClusterVersion {
                version: reader.u32()?,
                by: NodeId(reader.u32()?),
                at_ms: reader.u64()?,
            },
            2 => HostCommand::AllowReplace {
                node: NodeId(reader.u32()?),
                by: NodeId(reader.u32()?),
                at_ms: reader.u64()?,
                valid_ms: reader.u64()?,
            },
            3 => HostCommand::HashMark,
            4 => HostCommand::HashVerdict {
                index: reader.u64()?,
                hash: reader.u64()?,
            },
            _ => return reader.malformed(),
        };
        reader.finish()?;
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_read_as_written_and_in_no_other_length_version_or_kind() {
        let (by, at_ms) = (NodeId(3), 1_700_000_000_000);
        let raised = HostCommand::ClusterVersion { version: 2, by, at_ms };
        let allowed = HostCommand::AllowReplace {
            node: NodeId(2),
            by,
            at_ms,
            valid_ms: 7,
        };
        let (index, hash) = (9, 0x1234_5678_9abc_def0);
        let verdict = HostCommand::HashVerdict { index, hash };
        for command in [raised, allowed, HostCommand::HashMark, verdict] {
            is_read_strictly(command);
        }
    }

    fn is_read_strictly(command: HostCommand) {
        let bytes = command.encode();
        assert_eq!(HostCommand::decode(bytes.clone()), Ok(command));
        for len in 0..bytes.len() {
            assert!(HostCommand::decode(bytes.slice(..len)).is_err(), "cut to {len}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(HostCommand::decode(longer.into()).is_err(), "and a byte");
        for at in 0..2 {
            let mut other = bytes.to_vec();
            other[at] = 9;
            assert!(HostCommand::decode(other.into()).is_err(), "another version or kind");
        }
    }
}
