//! One connection's bytes, whichever way the client sends its messages: Seata's own frames, or gRPC on the same port.

use bytes::{Buf, BytesMut};

use crate::{
    error::WireError,
    frame::{self, Frame, FrameDecoder},
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
        Transport {
            max_frame_bytes,
            kind: Kind::Undecided,
            out: BytesMut::new(),
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
                        self.kind = Kind::Frames(FrameDecoder::new(self.max_frame_bytes));
                    } else if seen < PREFACE.len() {
                        return Ok(Received::Nothing);
                    } else {
                        bytes.advance(PREFACE.len());
                        let max = self.max_frame_bytes;
                        self.kind = Kind::Grpc(Box::new((Http2::new(max, &mut self.out), GrpcCodec::new(max))));
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
