//! Where Caucho's `Hessian2Output` stands in its output buffer: it cuts a binary to what still fits.
//!
//! Each of its methods asks for room in its own way before it writes, so the position follows from all that was written
//! since the last flush. Source: `com.caucho:hessian` 4.0.66, `Hessian2Output`.

/// `Hessian2Output.SIZE`.
const SIZE: usize = 8192;
/// Where `printString` flushes before the next character, and `writeInt`, `writeString` and others before they start.
const SCALAR_MAX: usize = SIZE - 16;

/// A position in a buffer that does not exist here.
#[derive(Clone, Debug, Default)]
pub(crate) struct JavaBuffer {
    at: usize,
}

impl JavaBuffer {
    pub fn flush(&mut self) {
        self.at = 0;
    }

    /// `writeNull`, `writeInt`, `writeLong`, `writeDouble` and the head of `writeString`.
    pub fn scalar(&mut self, bytes: usize) {
        if self.at >= SCALAR_MAX {
            self.at = 0;
        }
        self.at += bytes;
    }

    /// `writeBoolean` and `writeRef`, which leave one byte more before they flush.
    pub fn flag(&mut self, bytes: usize) {
        if self.at > SIZE - 16 {
            self.at = 0;
        }
        self.at += bytes;
    }

    /// Dates and the codes around lists, maps and objects.
    pub fn head(&mut self, bytes: usize) {
        self.room_for_head();
        self.at += bytes;
    }

    /// `flushIfFull`.
    pub fn room_for_head(&mut self) {
        if self.at > SIZE - 32 {
            self.at = 0;
        }
    }

    /// `printString` of `count` characters of one byte each.
    pub fn ascii(&mut self, mut count: usize) {
        while count > 0 {
            if self.at >= SCALAR_MAX {
                self.at = 0;
            }
            let now = count.min(SCALAR_MAX - self.at);
            self.at += now;
            count -= now;
        }
    }

    /// `printString` of one UTF-16 unit that takes `bytes` bytes.
    pub fn unit(&mut self, bytes: usize) {
        self.scalar(bytes);
    }

    /// Takes the next cut of a binary of which `left` bytes are left: `Some` is the length of a chunk before the last.
    pub fn chunk(&mut self, left: usize) -> Option<usize> {
        let room = SIZE - self.at - 3;
        if left <= room {
            return None;
        }
        let cut = if room < 16 { left.min(SIZE - 3) } else { room };
        self.at = 0;
        Some(cut)
    }

    /// The last cut with a head of `head` bytes.
    pub fn last_chunk(&mut self, head: usize, len: usize) {
        if self.at > SIZE - 16 {
            self.at = 0;
        }
        self.at += head + len;
    }
}
