//! One connection's bytes, whichever way the client sends its messages: Seata's own frames, or gRPC on the same port.

use bytes::{Buf, BytesMut};

use crate::{
    error::WireError,
    frame::{self, Frame, FrameDecoder, Takes},
    grpc::GrpcCodec,
    http2::{Event, Http2, PREFACE},
};

/// What came of a client's bytes.
#[derive(Debug)]
pub enum Received {
    Frame(Frame),
    /// Not enough for a message; read on.
    Nothing,
    /// The client has closed its stream.
    Ended,
}

/// The server's end of a connection. The first bytes tell the transport (`ProtocolDetectHandler` of Seata 2.3).
pub struct Transport {
    max_frame_bytes: usize,
    takes: Takes,
    kind: Kind,
    out: BytesMut,
}

enum Kind {
    Undecided,
    Frames(FrameDecoder),
    Grpc(Box<(Http2, GrpcCodec)>),
}

impl Transport {
    /// `max_frame_bytes` bounds a message as it arrives and its body when decompressed.
    pub fn new(max_frame_bytes: usize) -> Transport {
        Transport::taking(Takes::All, max_frame_bytes)
    }

    /// For a client that nobody knows yet: everything but a registration of at most `max_frame_bytes` is refused unread,
    /// until [`take_all`](Transport::take_all).
    pub fn for_registrations(max_frame_bytes: usize) -> Transport {
        Transport::taking(Takes::Registrations, max_frame_bytes)
    }

    fn taking(takes: Takes, max_frame_bytes: usize) -> Transport {
        Transport {
            max_frame_bytes,
            takes,
            kind: Kind::Undecided,
            out: BytesMut::new(),
        }
    }

    /// Takes every message from now on, of at most `max_frame_bytes`.
    pub fn take_all(&mut self, max_frame_bytes: usize) {
        (self.takes, self.max_frame_bytes) = (Takes::All, max_frame_bytes);
        match &mut self.kind {
            Kind::Undecided => {}
            Kind::Frames(decoder) => *decoder = FrameDecoder::new(max_frame_bytes),
            Kind::Grpc(grpc) => {
                grpc.0.set_max_message_bytes(max_frame_bytes);
                grpc.1.take_all(max_frame_bytes);
            }
        }
    }

    /// What is to be written to the client; take it away.
    pub fn out(&mut self) -> &mut BytesMut {
        &mut self.out
    }

    /// Takes the first message out of `bytes`. What the transport itself has to answer goes [`out`](Transport::out).
    ///
    /// # Errors
    /// Fatal: close the connection, do not call again.
    pub fn receive(&mut self, bytes: &mut BytesMut) -> Result<Received, WireError> {
        loop {
            match &mut self.kind {
                Kind::Undecided => {
                    let seen = bytes.len().min(PREFACE.len());
                    if seen == 0 {
                        return Ok(Received::Nothing);
                    }
                    if bytes[..seen] != PREFACE[..seen] {
                        self.kind = Kind::Frames(FrameDecoder::taking(self.takes, self.max_frame_bytes));
                    } else if seen < PREFACE.len() {
                        return Ok(Received::Nothing);
                    } else {
                        bytes.advance(PREFACE.len());
                        let max = self.max_frame_bytes;
                        self.kind = Kind::Grpc(Box::new((
                            Http2::new(max, &mut self.out),
                            GrpcCodec::new(self.takes, max),
                        )));
                    }
                }
                Kind::Frames(decoder) => {
                    let frame = decoder.decode(bytes)?;
                    return Ok(frame.map_or(Received::Nothing, Received::Frame));
                }
                Kind::Grpc(grpc) => {
                    let (http2, codec) = &mut **grpc;
                    return match http2.take(bytes, &mut self.out)? {
                        None => Ok(Received::Nothing),
                        Some(Event::Message(message)) => codec.decode(&message).map(Received::Frame),
                        Some(Event::Ended) => {
                            http2.end(&mut self.out);
                            Ok(Received::Ended)
                        }
                    };
                }
            }
        }
    }

    /// Sends a message to the client, by way of [`out`](Transport::out).
    ///
    /// # Errors
    /// When the message cannot be written, of which nothing is sent then; or too much waits for a client that reads
    /// nothing.
    pub fn send(&mut self, frame: &Frame) -> Result<(), WireError> {
        match &mut self.kind {
            Kind::Undecided | Kind::Frames(_) => frame::encode(frame, &mut self.out),
            Kind::Grpc(grpc) => {
                let (http2, codec) = &mut **grpc;
                let mut message = BytesMut::new();
                codec.encode(frame, &mut message)?;
                http2.send(&message, &mut self.out)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;

    use super::*;
    use crate::{
        frame::{Codec, Compressor, MsgType, ProtocolVersion},
        message::{GlobalBegin, Identity, Message},
        protobuf::Package,
    };

    const REGISTRATION_MAX: usize = 4 << 10;

    fn registration(extra_bytes: usize) -> Frame {
        let identity = Identity {
            application_id: "bank".to_owned(),
            extra_data: "x".repeat(extra_bytes),
            ..Identity::default()
        };
        Frame::request(
            ProtocolVersion::V1,
            MsgType::RequestSync,
            1,
            Message::RegisterTmRequest(identity),
        )
    }

    fn begin() -> Frame {
        let begin = GlobalBegin {
            timeout_ms: 60_000,
            transaction_name: "t".repeat(2 * REGISTRATION_MAX),
        };
        Frame::request(
            ProtocolVersion::V1,
            MsgType::RequestSync,
            2,
            Message::GlobalBegin(begin),
        )
    }

    /// The ways in which a client may write the same.
    fn ways(frame: &Frame) -> Vec<BytesMut> {
        let codecs = [
            Codec::Seata,
            Codec::Protobuf(Package::Io),
            Codec::Protobuf(Package::Apache),
        ];
        let mut ways = Vec::new();
        for (codec, compressor) in codecs
            .into_iter()
            .flat_map(|codec| [(codec, Compressor::None), (codec, Compressor::Zstd)])
        {
            let frame = Frame {
                codec,
                compressor,
                ..frame.clone()
            };
            let mut bytes = BytesMut::new();
            frame::encode(&frame, &mut bytes).expect("it fits a frame");
            ways.push(bytes);
        }
        ways
    }

    /// The preface, a stream and one message on it, as long as it fits one frame of HTTP/2.
    fn by_grpc(frame: &Frame, preface: bool) -> BytesMut {
        let frame = Frame {
            codec: Codec::Protobuf(Package::Apache),
            ..frame.clone()
        };
        let mut message = BytesMut::new();
        let codec = GrpcCodec::new(Takes::All, 1 << 20);
        codec.encode(&frame, &mut message).expect("it can be written");
        let mut bytes = BytesMut::new();
        if preface {
            bytes.put_slice(PREFACE);
            bytes.put_slice(&[0, 0, 0, 1, 4, 0, 0, 0, 3]);
        }
        bytes.put_uint(message.len() as u64 + 5, 3);
        bytes.put_slice(&[0, 0, 0, 0, 0, 3, 0]);
        bytes.put_u32(message.len() as u32);
        bytes.put_slice(&message);
        bytes
    }

    fn received(transport: &mut Transport, bytes: &mut BytesMut) -> Option<Frame> {
        match transport.receive(bytes) {
            Ok(Received::Frame(frame)) => Some(frame),
            Ok(_) => panic!("the message is whole"),
            Err(_) => None,
        }
    }

    #[test]
    fn a_client_that_nobody_knows_is_read_a_short_registration_and_nothing_else() {
        let unknown = || Transport::for_registrations(REGISTRATION_MAX);
        for mut bytes in ways(&registration(100))
            .into_iter()
            .chain([by_grpc(&registration(100), true)])
        {
            assert!(received(&mut unknown(), &mut bytes).is_some());
        }
        let long = registration(REGISTRATION_MAX);
        let others = [begin(), long];
        for mut bytes in others
            .iter()
            .flat_map(|frame| ways(frame).into_iter().chain([by_grpc(frame, true)]))
        {
            assert!(received(&mut unknown(), &mut bytes).is_none());
        }
        let mut answer = registration(100);
        answer.msg_type = MsgType::Response;
        for frame in [Frame::ping(ProtocolVersion::V1, 1), answer] {
            let mut bytes = BytesMut::new();
            frame::encode(&frame, &mut bytes).expect("it fits a frame");
            assert_eq!(unknown().receive(&mut bytes).err(), Some(WireError::NotARegistration));
            // By its head alone: the rest need not have come.
            frame::encode(&frame, &mut bytes).expect("it fits a frame");
            bytes.truncate(16);
            assert_eq!(unknown().receive(&mut bytes).err(), Some(WireError::NotARegistration));
            assert!(received(&mut unknown(), &mut by_grpc(&frame, true)).is_none());
        }
    }

    #[test]
    fn once_it_is_known_everything_is_read() {
        for (mut first, mut second) in [
            (ways(&registration(10)).remove(0), ways(&begin()).remove(0)),
            (by_grpc(&registration(10), true), by_grpc(&begin(), false)),
        ] {
            let mut transport = Transport::for_registrations(REGISTRATION_MAX);
            assert!(received(&mut transport, &mut first).is_some());
            transport.take_all(1 << 20);
            let read = received(&mut transport, &mut second).expect("it is known");
            assert_eq!(read.body, begin().body);
        }
    }
}
