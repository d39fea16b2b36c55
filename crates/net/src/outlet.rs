//! The sending side of a connection that any thread may write to.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::{Buf, BytesMut};
use tokio::sync::Notify;

use crate::Writing;

/// Kept for the next bytes, so that a steady flow allocates nothing; a larger buffer is given back once it is empty.
const KEPT_BYTES: usize = 1 << 20;

/// Bytes are gathered with [`Outlet::push`] and written by [`Outlet::flush`] at once, on the caller's thread, as far as
/// the socket takes them without waiting. Only what is left over costs a hop: [`Outlet::drain`], which the connection's
/// own task awaits, writes it when the socket has room.
#[derive(Debug)]
pub struct Outlet {
    writing: Writing,
    pending: Mutex<Pending>,
    left_over: Notify,
    limit: usize,
}

#[derive(Debug, Default)]
struct Pending {
    bytes: BytesMut,
    /// The socket was full: the bytes are the drain's until they are all gone.
    is_drains: bool,
    /// Bytes were sealed that the socket had no room for.
    has_sealed: bool,
    error: Option<io::ErrorKind>,
}

impl Outlet {
    /// At most `limit` bytes wait, but for one push that begins below it.
    pub fn new(writing: Writing, limit: usize) -> Outlet {
        Outlet {
            writing,
            pending: Mutex::default(),
            left_over: Notify::new(),
            limit,
        }
    }

    /// Lets `put` append its bytes; false, without calling it, when too many wait already or the connection broke.
    pub fn push(&self, put: impl FnOnce(&mut BytesMut)) -> bool {
        let mut pending = self.lock();
        if pending.error.is_some() || pending.bytes.len() >= self.limit {
            return false;
        }
        put(&mut pending.bytes);
        true
    }

    /// Writes what waits, without blocking. Returns how many bytes the system took.
    pub fn flush(&self) -> usize {
        let mut pending = self.lock();
        if pending.is_drains || pending.error.is_some() {
            return 0;
        }
        let taken = self.write(&mut pending);
        if !pending.bytes.is_empty() || pending.has_sealed || pending.error.is_some() {
            pending.is_drains = true;
            self.left_over.notify_one();
        }
        taken
    }

    /// Writes what a flush had to leave. Resolves only when the connection is broken. `taken` is told how much went out.
    pub async fn drain(&self, taken: impl Fn(usize)) -> io::Error {
        loop {
            self.left_over.notified().await;
            loop {
                if let Err(error) = self.writing.writable().await {
                    self.lock().error = Some(error.kind());
                    return error;
                }
                let mut pending = self.lock();
                taken(self.write(&mut pending));
                if let Some(kind) = pending.error {
                    return kind.into();
                }
                if pending.bytes.is_empty() && !pending.has_sealed {
                    pending.is_drains = false;
                    break;
                }
            }
        }
    }

    fn write(&self, pending: &mut Pending) -> usize {
        let mut taken = 0;
        while !pending.bytes.is_empty() {
            match self.writing.try_write(&pending.bytes) {
                Ok(0) => {
                    pending.error = Some(io::ErrorKind::WriteZero);
                    break;
                }
                Ok(n) => {
                    taken += n;
                    pending.bytes.advance(n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    pending.error = Some(error.kind());
                    break;
                }
            }
        }
        if pending.error.is_none() {
            match self.writing.try_flush() {
                Ok(()) => pending.has_sealed = false,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => pending.has_sealed = true,
                Err(error) => pending.error = Some(error.kind()),
            }
        }
        if pending.bytes.is_empty() {
            match pending.bytes.capacity() > KEPT_BYTES {
                true => pending.bytes = BytesMut::new(),
                false => pending.bytes.clear(),
            }
        }
        taken
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        // Nothing panics between two changes that belong together.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::BufMut;
    use tokio::{
        io::AsyncReadExt,
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::Stream;

    async fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (dialled, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        (dialled.expect("connected"), accepted.expect("accepted").0)
    }

    #[tokio::test]
    async fn what_the_socket_does_not_take_at_once_arrives_later_whole_and_in_order() {
        const BLOCKS: u32 = 4_000;
        let (dialled, mut accepted) = connected().await;
        let (_reading, writing) = Stream::plain(dialled).into_split();
        let outlet = Arc::new(Outlet::new(writing, usize::MAX));
        let feed = async {
            for number in 0..BLOCKS {
                assert!(outlet.push(|out| out.put_bytes(number as u8, 4096)));
                outlet.flush();
                if number % 64 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        };
        let read = async {
            let mut block = [0; 4096];
            for number in 0..BLOCKS {
                accepted.read_exact(&mut block).await.expect("the connection holds");
                assert!(block.iter().all(|byte| *byte == number as u8), "block {number}");
            }
        };
        tokio::select! {
            biased;
            error = outlet.drain(|_| {}) => panic!("the connection broke: {error}"),
            _ = async { tokio::join!(feed, read) } => {}
        }
    }

    #[tokio::test]
    async fn a_reader_that_stands_still_makes_pushes_fail_once_the_limit_waits() {
        let (dialled, _accepted) = connected().await;
        let (_reading, writing) = Stream::plain(dialled).into_split();
        let outlet = Outlet::new(writing, 64 << 10);
        let mut pushed = 0;
        while outlet.push(|out| out.put_bytes(0, 4096)) {
            outlet.flush();
            pushed += 1;
            assert!(pushed < 100_000, "the limit holds");
        }
    }
}
