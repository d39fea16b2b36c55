//! The server's end of HTTP/2 as far as one gRPC stream needs it.
//!
//! Written out here because Seata's client speaks it wrongly: its request head is that of a *response* (`:status` and no
//! `:method`, see `GrpcEncoder`), which any HTTP/2 library refuses. So what a head says is not looked at, which spares
//! HPACK too: one stream, whatever it is called. A connection has one stream, as Java opens them (each `getNewChannel`
//! of 2.3 and 2.6 connects anew, for a TM and for an RM); a further one is refused while it is open.
//!
//! Source: RFC 9113, and gRPC over HTTP/2 for the messages in the stream.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::error::WireError;

/// What a client sends first.
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const HEAD_BYTES: usize = 9;
/// The largest frame that we take, which is also the smallest that either side must; ours are never larger.
const MAX_FRAME_BYTES: usize = 16 << 10;
/// The heads of one request, with all their continuations.
const MAX_HEADS_BYTES: usize = 64 << 10;
const WINDOW_DEFAULT: i64 = 65_535;
const WINDOW_MAX: i64 = i32::MAX as i64;
/// Of a message in a gRPC stream: a flag and the length.
const PREFIX_BYTES: usize = 5;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

const SETTING_MAX_CONCURRENT_STREAMS: u16 = 3;
const SETTING_INITIAL_WINDOW: u16 = 4;
const REFUSED_STREAM: u32 = 7;

/// `:status: 200`, `content-type: application/grpc`; without indexing, so that no table is shared.
const ANSWER_HEAD: &[u8] = b"\x88\x0f\x10\x10application/grpc";
/// `grpc-status: 0`.
const ANSWER_END: &[u8] = b"\x00\x0bgrpc-status\x010";

/// What has come of the client's bytes.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Event {
    /// A whole message of the stream, without its prefix.
    Message(Bytes),
    /// The client sends nothing more.
    Ended,
}

/// One connection, behind the preface.
pub(crate) struct Http2 {
    max_message_bytes: usize,
    /// The open stream; 0 before it.
    stream: u32,
    /// A head that is continued: its stream and how long it is by now.
    continued: Option<(u32, usize)>,
    has_ended: bool,
    is_answered: bool,
    /// What of the stream's data is no whole message yet.
    data: BytesMut,
    window: i64,
    stream_window: i64,
    initial_window: i64,
    /// Messages that wait for the client's windows.
    waiting: Waiting,
}

/// A queue of messages that knows how many bytes are in it.
#[derive(Default)]
struct Waiting {
    messages: VecDeque<Bytes>,
    bytes: usize,
    /// How often a message was looked at: what a write costs must not depend on how many others wait.
    #[cfg(test)]
    looks: usize,
}

impl Waiting {
    fn push(&mut self, message: Bytes) {
        self.bytes += message.len();
        self.messages.push_back(message);
    }

    fn first_bytes(&mut self) -> Option<usize> {
        #[cfg(test)]
        {
            self.looks += 1;
        }
        self.messages.front().map(Bytes::len)
    }

    /// The next `bytes` of the first message, which must have them.
    fn take(&mut self, bytes: usize) -> Bytes {
        let first = self.messages.front_mut().expect("its length was asked for");
        let taken = first.split_to(bytes);
        self.bytes -= bytes;
        if first.is_empty() {
            self.messages.pop_front();
        }
        taken
    }
}

struct Head {
    bytes: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Http2 {
    /// `max_message_bytes` bounds a message as it arrives, and what may wait for the client's windows.
    pub(crate) fn new(max_message_bytes: usize, out: &mut BytesMut) -> Http2 {
        put_head(out, 6, SETTINGS, 0, 0);
        out.put_u16(SETTING_MAX_CONCURRENT_STREAMS);
        out.put_u32(1);
        Http2 {
            max_message_bytes,
            stream: 0,
            continued: None,
            has_ended: false,
            is_answered: false,
            data: BytesMut::new(),
            window: WINDOW_DEFAULT,
            stream_window: WINDOW_DEFAULT,
            initial_window: WINDOW_DEFAULT,
            waiting: Waiting::default(),
        }
    }

    /// From now on.
    pub(crate) fn set_max_message_bytes(&mut self, max_message_bytes: usize) {
        self.max_message_bytes = max_message_bytes;
    }

    /// Takes frames out of `bytes` until one brings something; appends to `out` what the protocol itself answers.
    pub(crate) fn take(&mut self, bytes: &mut BytesMut, out: &mut BytesMut) -> Result<Option<Event>, WireError> {
        loop {
            if let Some(message) = self.cut()? {
                return Ok(Some(Event::Message(message)));
            }
            if self.has_ended {
                return Ok(Some(Event::Ended));
            }
            let Some(head) = read_head(bytes)? else {
                return Ok(None);
            };
            if bytes.len() < HEAD_BYTES + head.bytes {
                return Ok(None);
            }
            bytes.advance(HEAD_BYTES);
            let payload = bytes.split_to(head.bytes);
            self.frame(&head, &payload, out)?;
        }
    }

    /// Sends a message of the stream, or keeps it until the client has room.
    pub(crate) fn send(&mut self, message: &[u8], out: &mut BytesMut) -> Result<(), WireError> {
        if self.stream == 0 || self.has_ended {
            return Err(broken("nothing can be sent before the stream or after its end"));
        }
        if self.waiting.bytes + message.len() > self.max_message_bytes {
            return Err(broken("the client takes none of its answers"));
        }
        if !self.is_answered {
            self.is_answered = true;
            put_head(out, ANSWER_HEAD.len(), HEADERS, END_HEADERS, self.stream);
            out.put_slice(ANSWER_HEAD);
        }
        let mut prefixed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
        prefixed.put_u8(0);
        prefixed.put_u32(message.len() as u32);
        prefixed.put_slice(message);
        self.waiting.push(prefixed.freeze());
        self.flush(out);
        Ok(())
    }

    /// Says that all went well and that nothing more comes.
    pub(crate) fn end(&mut self, out: &mut BytesMut) {
        if self.is_answered && self.waiting.messages.is_empty() {
            put_head(out, ANSWER_END.len(), HEADERS, END_HEADERS | END_STREAM, self.stream);
            out.put_slice(ANSWER_END);
        }
    }

    fn frame(&mut self, head: &Head, payload: &[u8], out: &mut BytesMut) -> Result<(), WireError> {
        if self.continued.is_some() != (head.kind == CONTINUATION) {
            return Err(broken("a head and its continuations belong together"));
        }
        match head.kind {
            DATA => self.data(head, payload, out),
            HEADERS | CONTINUATION => self.head(head, payload.len(), out),
            SETTINGS => self.settings(head, payload, out),
            PING if head.flags & ACK == 0 => {
                if payload.len() != 8 {
                    return Err(broken("a ping has 8 bytes"));
                }
                put_head(out, 8, PING, ACK, 0);
                out.put_slice(payload);
                Ok(())
            }
            WINDOW_UPDATE => self.widen(head, payload, out),
            RST_STREAM if head.stream == self.stream => {
                self.has_ended = true;
                Ok(())
            }
            GOAWAY => {
                self.has_ended = true;
                Ok(())
            }
            PUSH_PROMISE => Err(broken("a client promises nothing")),
            _ => Ok(()),
        }
    }

    fn head(&mut self, head: &Head, bytes: usize, out: &mut BytesMut) -> Result<(), WireError> {
        let so_far = match self.continued.take() {
            Some((stream, so_far)) if stream == head.stream => so_far,
            Some(_) => return Err(broken("a head and its continuations belong together")),
            None => 0,
        };
        if head.stream.is_multiple_of(2) {
            return Err(broken("a client's stream has an odd number"));
        }
        if so_far + bytes > MAX_HEADS_BYTES {
            return Err(broken("a head of more than 64 KiB"));
        }
        if head.flags & END_HEADERS == 0 {
            self.continued = Some((head.stream, so_far + bytes));
        }
        if self.stream == 0 {
            self.stream = head.stream;
            self.stream_window = self.initial_window;
        } else if head.stream != self.stream && head.kind == HEADERS {
            put_head(out, 4, RST_STREAM, 0, head.stream);
            out.put_u32(REFUSED_STREAM);
        }
        self.has_ended |= head.kind == HEADERS && head.flags & END_STREAM != 0 && head.stream == self.stream;
        Ok(())
    }

    fn data(&mut self, head: &Head, payload: &[u8], out: &mut BytesMut) -> Result<(), WireError> {
        // All of it counts for the windows, padding too, and room is given at once: what is kept is bounded below.
        if !payload.is_empty() {
            for stream in [0, head.stream] {
                put_head(out, 4, WINDOW_UPDATE, 0, stream);
                out.put_u32(payload.len() as u32);
            }
        }
        if head.stream != self.stream || self.stream == 0 {
            // Of a stream that was refused.
            return match head.stream {
                0 => Err(broken("data without a stream")),
                _ => Ok(()),
            };
        }
        let data = match head.flags & PADDED {
            0 => payload,
            _ => {
                let (padding, rest) = payload
                    .split_first()
                    .ok_or(broken("a padded frame without its padding"))?;
                let end = rest.len().checked_sub(usize::from(*padding));
                &rest[..end.ok_or(broken("a padded frame without its padding"))?]
            }
        };
        self.data.put_slice(data);
        // A message that came before the end is still given: `take` cuts first.
        self.has_ended |= head.flags & END_STREAM != 0;
        Ok(())
    }

    fn cut(&mut self) -> Result<Option<Bytes>, WireError> {
        let Some((prefix, _)) = self.data.split_first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        let [flag, length @ ..] = *prefix;
        if flag != 0 {
            return Err(broken(
                "a message is compressed by gRPC; Seata compresses its body instead",
            ));
        }
        let bytes = u32::from_be_bytes(length) as usize;
        if bytes > self.max_message_bytes {
            return Err(WireError::FrameTooLong {
                bytes: bytes as u64,
                max: self.max_message_bytes,
            });
        }
        if self.data.len() < PREFIX_BYTES + bytes {
            return Ok(None);
        }
        self.data.advance(PREFIX_BYTES);
        Ok(Some(self.data.split_to(bytes).freeze()))
    }

    fn settings(&mut self, head: &Head, payload: &[u8], out: &mut BytesMut) -> Result<(), WireError> {
        if head.flags & ACK != 0 {
            return Ok(());
        }
        let (settings, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(broken("settings of 6 bytes each"));
        }
        for setting in settings {
            let [a, b, value @ ..] = *setting;
            if u16::from_be_bytes([a, b]) == SETTING_INITIAL_WINDOW {
                let window = i64::from(u32::from_be_bytes(value));
                if window > WINDOW_MAX {
                    return Err(broken("a window above 2^31 - 1"));
                }
                self.stream_window += window - self.initial_window;
                self.initial_window = window;
            }
        }
        put_head(out, 0, SETTINGS, ACK, 0);
        self.flush(out);
        Ok(())
    }

    fn widen(&mut self, head: &Head, payload: &[u8], out: &mut BytesMut) -> Result<(), WireError> {
        let bytes = <[u8; 4]>::try_from(payload).map_err(|_| broken("a window update has 4 bytes"))?;
        let by = i64::from(u32::from_be_bytes(bytes) & 0x7fff_ffff);
        let window = match head.stream {
            0 => &mut self.window,
            stream if stream == self.stream => &mut self.stream_window,
            _ => return Ok(()),
        };
        *window += by;
        if by == 0 || *window > WINDOW_MAX {
            return Err(broken("a window widened by nothing, or above 2^31 - 1"));
        }
        self.flush(out);
        Ok(())
    }

    /// Sends what the windows allow. A message that fits one frame goes in one: Java's reader puts none together.
    fn flush(&mut self, out: &mut BytesMut) {
        while let Some(left) = self.waiting.first_bytes() {
            let room = self.window.min(self.stream_window).max(0) as usize;
            let may_wait = left <= MAX_FRAME_BYTES && left as i64 <= self.initial_window;
            let bytes = match left.min(MAX_FRAME_BYTES) {
                all if all <= room => all,
                _ if may_wait => return,
                _ => room,
            };
            if bytes == 0 {
                return;
            }
            put_head(out, bytes, DATA, 0, self.stream);
            out.put_slice(&self.waiting.take(bytes));
            self.window -= bytes as i64;
            self.stream_window -= bytes as i64;
        }
    }
}

fn read_head(bytes: &[u8]) -> Result<Option<Head>, WireError> {
    let Some((head, _)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
        return Ok(None);
    };
    let [a, b, c, kind, flags, stream @ ..] = *head;
    let bytes = u32::from_be_bytes([0, a, b, c]) as usize;
    if bytes > MAX_FRAME_BYTES {
        return Err(broken("a frame of more than 16 KiB"));
    }
    let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
    Ok(Some(Head {
        bytes,
        kind,
        flags,
        stream,
    }))
}

fn put_head(out: &mut BytesMut, bytes: usize, kind: u8, flags: u8, stream: u32) {
    out.put_uint(bytes as u64, 3);
    out.put_u8(kind);
    out.put_u8(flags);
    out.put_u32(stream);
}

fn broken(problem: &'static str) -> WireError {
    WireError::Http2 { problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 1 << 20;

    fn started() -> (Http2, BytesMut) {
        let mut out = BytesMut::new();
        let mut http2 = Http2::new(MAX, &mut out);
        let mut bytes = frame(HEADERS, END_HEADERS, 3, b"whatever a head says");
        assert_eq!(http2.take(&mut bytes, &mut out), Ok(None));
        (http2, BytesMut::new())
    }

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> BytesMut {
        let mut bytes = BytesMut::new();
        put_head(&mut bytes, payload.len(), kind, flags, stream);
        bytes.put_slice(payload);
        bytes
    }

    fn message(text: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend((text.len() as u32).to_be_bytes());
        bytes.extend_from_slice(text);
        bytes
    }

    #[test]
    fn messages_are_cut_out_of_data_however_it_is_framed() {
        let stream: Vec<u8> = [&b"one"[..], b"", b"three"].into_iter().flat_map(message).collect();
        for size in 1..stream.len() {
            let (mut http2, mut out) = started();
            let mut bytes = BytesMut::new();
            for part in stream.chunks(size) {
                bytes.unsplit(frame(DATA, 0, 3, part));
            }
            bytes.unsplit(frame(DATA, END_STREAM | PADDED, 3, &[2, 0, 0]));
            let mut seen = Vec::new();
            while let Some(Event::Message(message)) = http2.take(&mut bytes, &mut out).unwrap() {
                seen.push(message);
            }
            assert_eq!(seen, [&b"one"[..], b"", b"three"]);
            assert_eq!(http2.take(&mut bytes, &mut out), Ok(Some(Event::Ended)));
        }
    }

    #[test]
    fn what_the_windows_do_not_allow_waits_whole_until_they_do() {
        let (mut http2, mut out) = started();
        let text = vec![b'x'; 10_000];
        for _ in 0..7 {
            http2.send(&text, &mut out).unwrap();
        }
        let six = 9 + ANSWER_HEAD.len() + 6 * (HEAD_BYTES + PREFIX_BYTES + text.len());
        assert_eq!(out.len(), six, "the seventh does not fit 65535 bytes, and is not cut");
        let widen = 10_000u32.to_be_bytes();
        let mut bytes = frame(WINDOW_UPDATE, 0, 0, &widen);
        http2.take(&mut bytes, &mut out).unwrap();
        assert_eq!(out.len(), six, "the stream's own window is still too small");
        bytes = frame(WINDOW_UPDATE, 0, 3, &widen);
        http2.take(&mut bytes, &mut out).unwrap();
        assert_eq!(out.len(), six + HEAD_BYTES + PREFIX_BYTES + text.len());
        let mut refused = None;
        for _ in 0..MAX / text.len() + 2 {
            refused = refused.or(http2.send(&text, &mut out).err());
        }
        assert!(
            matches!(refused, Some(WireError::Http2 { .. })),
            "what waits is bounded"
        );
    }

    #[test]
    fn what_a_queued_message_costs_does_not_depend_on_how_many_wait() {
        const MESSAGES: usize = 4_000;
        let (mut http2, mut out) = started();
        // The windows are used up first, so that all of them wait.
        http2
            .send(&[0; WINDOW_DEFAULT as usize - PREFIX_BYTES], &mut out)
            .unwrap();
        http2.waiting.looks = 0;
        for _ in 0..MESSAGES {
            http2.send(b"an answer", &mut out).unwrap();
        }
        assert_eq!(http2.waiting.messages.len(), MESSAGES);
        let widen = (PREFIX_BYTES as u32 + 9).to_be_bytes();
        for _ in 0..MESSAGES {
            let mut bytes = frame(WINDOW_UPDATE, 0, 0, &widen);
            bytes.unsplit(frame(WINDOW_UPDATE, 0, 3, &widen));
            http2.take(&mut bytes, &mut out).unwrap();
        }
        assert_eq!((http2.waiting.messages.len(), http2.waiting.bytes), (0, 0));
        assert!(http2.waiting.looks <= 5 * MESSAGES, "{} looks", http2.waiting.looks);
    }

    #[test]
    fn a_second_stream_is_refused_and_the_first_goes_on() {
        let (mut http2, mut out) = started();
        let mut bytes = frame(HEADERS, END_HEADERS | END_STREAM, 5, b"");
        bytes.unsplit(frame(DATA, 0, 5, b"to nobody"));
        bytes.unsplit(frame(DATA, 0, 3, &message(b"hello")));
        assert_eq!(
            http2.take(&mut bytes, &mut out),
            Ok(Some(Event::Message(Bytes::from_static(b"hello"))))
        );
        assert!(out.starts_with(&frame(RST_STREAM, 0, 5, &REFUSED_STREAM.to_be_bytes())));
    }

    #[test]
    fn pings_and_settings_are_answered() {
        let (mut http2, mut out) = started();
        let mut bytes = frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]);
        bytes.unsplit(frame(PING, 0, 0, b"12345678"));
        assert_eq!(http2.take(&mut bytes, &mut out), Ok(None));
        let mut expected = frame(SETTINGS, ACK, 0, b"");
        expected.unsplit(frame(PING, ACK, 0, b"12345678"));
        assert_eq!(out, expected);
    }

    #[test]
    fn what_is_no_http2_of_a_client_is_refused() {
        let zero = 0u32.to_be_bytes();
        for (what, bytes) in [
            ("a frame over 16 KiB", frame(DATA, 0, 3, &vec![0; MAX_FRAME_BYTES + 1])),
            ("data without a stream", frame(DATA, 0, 0, b"x")),
            ("a continuation of nothing", frame(CONTINUATION, END_HEADERS, 3, b"")),
            ("an even stream", frame(HEADERS, END_HEADERS, 4, b"")),
            ("padding that is longer than the frame", frame(DATA, PADDED, 3, &[9, 0])),
            ("no padding at all", frame(DATA, PADDED, 3, b"")),
            ("a compressed message", frame(DATA, 0, 3, &[1, 0, 0, 0, 0])),
            ("a message over the limit", frame(DATA, 0, 3, &[0, 0, 0x10, 0, 1])),
            ("half a setting", frame(SETTINGS, 0, 0, &[0, 4, 0])),
            ("too wide a window", frame(SETTINGS, 0, 0, &[0, 4, 0xff, 0, 0, 0])),
            ("a window widened by nothing", frame(WINDOW_UPDATE, 0, 0, &zero)),
            ("a promise", frame(PUSH_PROMISE, 0, 3, &zero)),
            ("half a ping", frame(PING, 0, 0, &zero)),
        ] {
            let (mut http2, mut out) = started();
            assert!(http2.take(&mut bytes.clone(), &mut out).is_err(), "{what}");
        }
        let (mut http2, mut out) = started();
        let mut endless = frame(HEADERS, 0, 3, b"");
        for _ in 0..5 {
            endless.unsplit(frame(CONTINUATION, 0, 3, &vec![0; MAX_FRAME_BYTES]));
        }
        assert!(http2.take(&mut endless, &mut out).is_err(), "a head without an end");
    }
}
