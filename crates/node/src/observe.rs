//! What the host notes, for whoever wants to act on it.

use settle_host::HostNote;
use tokio::sync::broadcast::{self, error::RecvError};

/// Notes kept for an observer that is slow.
pub(crate) const KEPT: usize = 4_096;

/// Hears everything that the host notes from the moment it was made: roles, configurations, snapshots, errors.
#[derive(Debug)]
pub struct Observer {
    notes: broadcast::Receiver<HostNote>,
}

/// What an observer hears.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Observed {
    Note(HostNote),
    /// The observer was slow: so many notes are lost to it, the oldest ones. Ask for the node's status.
    Missed(u64),
}

impl Observer {
    pub(crate) fn new(notes: broadcast::Receiver<HostNote>) -> Observer {
        Observer { notes }
    }

    /// The next note; `None` when the node has ended and everything was heard. Cancel-safe.
    pub async fn next(&mut self) -> Option<Observed> {
        match self.notes.recv().await {
            Ok(note) => Some(Observed::Note(note)),
            Err(RecvError::Lagged(missed)) => Some(Observed::Missed(missed)),
            Err(RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_observer_loses_the_oldest_and_is_told_how_many_and_hears_the_end() {
        let (sender, receiver) = broadcast::channel(2);
        let mut observer = Observer::new(receiver);
        for note in [HostNote::DiskFull, HostNote::DiskHasSpace, HostNote::DiskFull] {
            sender.send(note).expect("somebody hears");
        }
        drop(sender);
        assert_eq!(observer.next().await, Some(Observed::Missed(1)));
        assert_eq!(observer.next().await, Some(Observed::Note(HostNote::DiskHasSpace)));
        assert_eq!(observer.next().await, Some(Observed::Note(HostNote::DiskFull)));
        assert_eq!(observer.next().await, None);
    }
}
