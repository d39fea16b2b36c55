//! What the host itself puts into a group's log: commands that every replica's host follows at the same place in the
//! history, whatever the machine. One version byte, one kind byte, little-endian fields.

use bytes::{BufMut, Bytes};
use settle_base::{Index, NodeId};

use crate::wire::{Decoded, Reader};

const VERSION: u8 = 1;

/// The data of an entry of [`EntryKind::Host`](settle_raft::EntryKind::Host).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostCommand {
    /// Every replica notes its state's hash as of the entry before, and tells the leader.
    HashMark,
    /// A majority of the voters had `hash` at the mark that stands at `index`: whoever had another is wrong.
    HashVerdict { index: Index, hash: u64 },
    /// From the next entry on, machines apply as of cluster version `version`. A version that is not above the one in
    /// force changes nothing. `by` is the node that an operator asked, `at_ms` the wall time there, for display.
    ClusterVersion { version: u32, by: NodeId, at_ms: u64 },
}

impl HostCommand {
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(18);
        out.put_u8(VERSION);
        match self {
            HostCommand::HashMark => out.put_u8(1),
            HostCommand::HashVerdict { index, hash } => {
                out.put_u8(2);
                out.put_u64_le(*index);
                out.put_u64_le(*hash);
            }
            HostCommand::ClusterVersion { version, by, at_ms } => {
                out.put_u8(3);
                out.put_u32_le(*version);
                out.put_u32_le(by.0);
                out.put_u64_le(*at_ms);
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
            1 => HostCommand::HashMark,
            2 => HostCommand::HashVerdict {
                index: reader.u64()?,
                hash: reader.u64()?,
            },
            3 => HostCommand::ClusterVersion {
                version: reader.u32()?,
                by: NodeId(reader.u32()?),
                at_ms: reader.u64()?,
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
        let commands = [
            HostCommand::HashMark,
            HostCommand::HashVerdict { index: 9, hash: 1 << 63 },
            HostCommand::ClusterVersion {
                version: 2,
                by: NodeId(3),
                at_ms: 1_700_000_000_000,
            },
        ];
        for command in commands {
            let bytes = command.encode();
            assert_eq!(HostCommand::decode(bytes.clone()), Ok(command));
            for len in 0..bytes.len() {
                assert!(HostCommand::decode(bytes.slice(..len)).is_err(), "{command:?} cut to {len}");
            }
            let longer = [&bytes[..], &[0]].concat();
            assert!(HostCommand::decode(longer.into()).is_err(), "{command:?} and a byte");
        }
        assert!(HostCommand::decode(Bytes::from_static(&[2, 1])).is_err(), "another version");
        assert!(HostCommand::decode(Bytes::from_static(&[1, 9])).is_err(), "another kind");
    }
}
