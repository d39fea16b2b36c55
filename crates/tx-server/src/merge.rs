//! Which answer belongs to which frame: requests come one to a frame or many, and answers go back the same way.

use settle_base::FixedMap;
use settle_seata_wire::{Frame, HeadMap, Message, Transport, WireError, token::KNOWS_TOKENS};

use crate::translate::RequestKind;

/// Requests of one connection that the gate has not answered.
#[derive(Default)]
pub(crate) struct Pending {
    next_key: u64,
    requests: FixedMap<u64, Slot>,
    merged: FixedMap<u64, Merged>,
}

struct Slot {
    kind: RequestKind,
    place: Place,
}

enum Place {
    /// The request's frame, without its body. What is left of its head is answered with.
    Alone(Frame),
    Merged {
        merged: u64,
        item: usize,
    },
}

/// A frame of several requests.
struct Merged {
    frame: Frame,
    /// Under which id the client waits for each; clients before 1.5 send none.
    ids: Vec<Option<i32>>,
    answers: Vec<Option<Message>>,
    unresolved: usize,
    /// An item was dropped: the others are answered one by one, under their own ids.
    is_split: bool,
}

impl Pending {
    /// Notes a request that stands alone in `frame` and returns its key.
    pub(crate) fn alone(&mut self, frame: Frame, kind: RequestKind) -> u64 {
        // Java's clients do not ask, and are told nothing that they do not know.
        let asks = matches!(kind, RequestKind::RegisterTm | RequestKind::RegisterRm)
            && frame.head.iter().any(|(key, _)| key == KNOWS_TOKENS);
        let mut frame = to_be_kept(frame);
        if asks {
            frame.head.push((KNOWS_TOKENS.to_owned(), None));
        }
        self.insert(Slot {
            kind,
            place: Place::Alone(frame),
        })
    }

    /// Notes the requests of a merged `frame` and returns their keys in order. One without requests is answered at once.
    ///
    /// # Errors
    /// When that answer cannot be put into a frame.
    pub(crate) fn merged(
        &mut self,
        frame: Frame,
        items: &[(Option<i32>, RequestKind)],
        out: &mut Transport,
    ) -> Result<Vec<u64>, WireError> {
        if items.is_empty() {
            out.send(&frame.response(Message::MergeResult(Vec::new())))?;
            return Ok(Vec::new());
        }
        let merged = self.take_key();
        self.merged.insert(
            merged,
            Merged {
                frame: to_be_kept(frame),
                ids: items.iter().map(|(id, _)| *id).collect(),
                answers: items.iter().map(|_| None).collect(),
                unresolved: items.len(),
                is_split: false,
            },
        );
        let place = |item| Place::Merged { merged, item };
        let keys = items.iter().enumerate().map(|(i, (_, kind))| {
            self.insert(Slot {
                kind: *kind,
                place: place(i),
            })
        });
        Ok(keys.collect())
    }

    pub(crate) fn kind(&self, key: u64) -> Option<RequestKind> {
        self.requests.get(&key).map(|slot| slot.kind)
    }

    /// Writes what can now be written.
    ///
    /// # Errors
    /// When the answer cannot be put into a frame.
    pub(crate) fn answer(&mut self, key: u64, answer: Message, out: &mut Transport) -> Result<(), WireError> {
        let Some(slot) = self.requests.remove(&key) else {
            return Ok(());
        };
        match slot.place {
            Place::Alone(mut request) => {
                let head = std::mem::take(&mut request.head);
                let response = request.response(answer);
                out.send(&Frame { head, ..response })
            }
            Place::Merged { merged, item } => {
                let entry = self
                    .merged
                    .get_mut(&merged)
                    .expect("it lives as long as one of its requests");
                entry.unresolved -= 1;
                let written = if entry.is_split {
                    write_alone(&entry.frame, entry.ids[item], answer, out)
                } else {
                    entry.answers[item] = Some(answer);
                    match entry.unresolved {
                        0 => {
                            let answers = entry.answers.drain(..).flatten().collect();
                            out.send(&entry.frame.response(Message::MergeResult(answers)))
                        }
                        _ => Ok(()),
                    }
                };
                self.forget_resolved(merged);
                written
            }
        }
    }

    /// This request is never answered. Others of its frame are, one by one: the client waits for each under its own
    /// id, and takes such an answer as well as a merged one (Java: ClientOnResponseProcessor).
    ///
    /// # Errors
    /// When an answer cannot be put into a frame.
    pub(crate) fn dropped(&mut self, key: u64, out: &mut Transport) -> Result<(), WireError> {
        let Some(Slot {
            place: Place::Merged { merged, .. },
            ..
        }) = self.requests.remove(&key)
        else {
            return Ok(());
        };
        let entry = self
            .merged
            .get_mut(&merged)
            .expect("it lives as long as one of its requests");
        entry.unresolved -= 1;
        entry.is_split = true;
        let mut outcome = Ok(());
        for (id, answer) in entry.ids.iter().zip(entry.answers.iter_mut()) {
            if let Some(answer) = answer.take() {
                outcome = outcome.and(write_alone(&entry.frame, *id, answer, out));
            }
        }
        self.forget_resolved(merged);
        outcome
    }

    fn forget_resolved(&mut self, merged: u64) {
        if self.merged.get(&merged).is_some_and(|entry| entry.unresolved == 0) {
            self.merged.remove(&merged);
        }
    }

    fn insert(&mut self, slot: Slot) -> u64 {
        let key = self.take_key();
        self.requests.insert(key, slot);
        key
    }

    fn take_key(&mut self) -> u64 {
        self.next_key += 1;
        self.next_key
    }
}

/// What an answer needs of its request. A head may have 64 KiB on the wire and ten times that in memory, so a limit on
/// requests that wait would not bound what they hold.
fn to_be_kept(mut frame: Frame) -> Frame {
    debug_assert!(frame.body.is_none(), "the body went to the gate");
    frame.head = HeadMap::new();
    frame
}

fn write_alone(merged: &Frame, id: Option<i32>, answer: Message, out: &mut Transport) -> Result<(), WireError> {
    // Without an id of its own the client waits for the whole frame only.
    let Some(request_id) = id else { return Ok(()) };
    let mut response = merged.response(answer);
    response.request_id = request_id;
    out.send(&response)
}

#[cfg(test)]
mod tests {
    use settle_seata_wire::{FrameDecoder, MAX_FRAME_BYTES_DEFAULT, MsgType, ProtocolVersion, TxResult};
    use settle_tx_gate::ClientAnswer;

    use super::*;
    use crate::translate::Dialect;

    fn frame_of(request_id: i32) -> Frame {
        let mut frame = Frame::ping(ProtocolVersion::V1, request_id);
        frame.msg_type = MsgType::RequestOneway;
        frame
    }

    fn reported() -> Message {
        Message::BranchReportResponse(TxResult::SUCCESS)
    }

    fn written(out: &mut Transport) -> Vec<(i32, Message)> {
        let mut decoder = FrameDecoder::new(MAX_FRAME_BYTES_DEFAULT);
        std::iter::from_fn(|| decoder.decode(out.out()).expect("well formed"))
            .map(|frame| (frame.request_id, frame.body.expect("an answer")))
            .collect()
    }

    #[test]
    fn a_merged_frame_without_requests_is_answered_and_forgotten() {
        let (mut pending, mut out) = (Pending::default(), Transport::new(MAX_FRAME_BYTES_DEFAULT));
        let keys = pending.merged(frame_of(9), &[], &mut out).expect("encodes");
        assert_eq!((keys, pending.merged.len()), (vec![], 0));
        assert_eq!(written(&mut out), vec![(9, Message::MergeResult(vec![]))]);
    }

    #[test]
    fn a_merged_frame_is_answered_once_in_request_order_whatever_the_order_of_answers() {
        let (mut pending, mut out) = (Pending::default(), Transport::new(MAX_FRAME_BYTES_DEFAULT));
        let kinds = [
            (Some(7), RequestKind::BranchReport),
            (Some(8), RequestKind::GlobalStatus),
        ];
        let keys = pending.merged(frame_of(9), &kinds, &mut out).expect("encodes");
        let status = RequestKind::GlobalStatus.refused("TX", 0, Dialect::From2);
        pending.answer(keys[1], status.clone(), &mut out).expect("encodes");
        assert!(out.out().is_empty());
        pending.answer(keys[0], reported(), &mut out).expect("encodes");
        assert_eq!(
            written(&mut out),
            vec![(9, Message::MergeResult(vec![reported(), status]))]
        );
        assert!(pending.requests.is_empty());
        assert!(pending.merged.is_empty());
    }

    #[test]
    fn a_dropped_request_does_not_take_the_others_of_its_frame_with_it() {
        let (mut pending, mut out) = (Pending::default(), Transport::new(MAX_FRAME_BYTES_DEFAULT));
        let kinds = [7, 8, 10].map(|id| (Some(id), RequestKind::BranchReport));
        let keys = pending.merged(frame_of(9), &kinds, &mut out).expect("encodes");
        pending.answer(keys[0], reported(), &mut out).expect("encodes");
        pending.dropped(keys[1], &mut out).expect("encodes");
        assert_eq!(written(&mut out), vec![(7, reported())]);
        pending.answer(keys[2], reported(), &mut out).expect("encodes");
        assert_eq!(written(&mut out), vec![(10, reported())]);
        assert!(pending.merged.is_empty());
    }

    #[test]
    fn a_client_that_asks_is_told_that_tokens_are_known_and_no_other() {
        for (kind, head, told) in [
            (RequestKind::RegisterRm, vec![(KNOWS_TOKENS.to_owned(), None)], 1),
            (RequestKind::RegisterRm, vec![("another".to_owned(), None)], 0),
            (RequestKind::RegisterRm, vec![], 0),
            (RequestKind::BranchReport, vec![(KNOWS_TOKENS.to_owned(), None)], 0),
        ] {
            let (mut pending, mut out) = (Pending::default(), Transport::new(MAX_FRAME_BYTES_DEFAULT));
            let mut frame = frame_of(1);
            frame.head = head;
            let key = pending.alone(frame, kind);
            let answer = kind.answer(ClientAnswer::RmRegistered, Dialect::From2);
            pending.answer(key, answer, &mut out).expect("encodes");
            let mut decoder = FrameDecoder::new(MAX_FRAME_BYTES_DEFAULT);
            let frame = decoder.decode(out.out()).expect("well formed").expect("an answer");
            assert_eq!(frame.head.len(), told, "{kind:?}");
        }
    }

    #[test]
    fn a_request_that_waits_holds_nothing_of_its_head() {
        let (mut pending, mut out) = (Pending::default(), Transport::new(MAX_FRAME_BYTES_DEFAULT));
        let mut frame = frame_of(1);
        frame.head = vec![("key".to_owned(), None); 10_000];
        pending.alone(frame.clone(), RequestKind::BranchReport);
        let kinds = [(Some(7), RequestKind::BranchReport)];
        pending.merged(frame, &kinds, &mut out).expect("encodes");
        let alone = pending.requests.values().filter_map(|slot| match &slot.place {
            Place::Alone(frame) => Some(frame),
            Place::Merged { .. } => None,
        });
        let merged = pending.merged.values().map(|merged| &merged.frame);
        assert!(alone.chain(merged).all(|frame| frame.head.capacity() == 0));
    }

    #[test]
    fn an_answer_to_a_request_that_is_gone_is_ignored() {
        let (mut pending, mut out) = (Pending::default(), Transport::new(MAX_FRAME_BYTES_DEFAULT));
        let key = pending.alone(frame_of(1), RequestKind::BranchReport);
        pending.answer(key, reported(), &mut out).expect("encodes");
        pending.answer(key, reported(), &mut out).expect("encodes");
        assert_eq!(written(&mut out).len(), 1);
    }
}
