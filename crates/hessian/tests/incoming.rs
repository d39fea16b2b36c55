//! Messages that are read while they arrive.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod samples;

use std::fmt::Debug;

use samples::{CAUCHO, LITE, SOFA, SOFA4, vector, vectors};
use settle_hessian::{
    ClassNames, DecodeOptions, Dialect, Document, HessianDecode, HessianError, Incoming, ListHead, MapHead, ObjectHead,
    Reader, Token, java,
};

const ALL: [(Dialect, &str); 4] = [
    (Dialect::Sofa3, SOFA),
    (Dialect::Hessian2, SOFA4),
    (Dialect::Hessian2, CAUCHO),
    (Dialect::Hessian2, LITE),
];

fn options(dialect: Dialect) -> DecodeOptions {
    let mut options = DecodeOptions::new(dialect);
    options.class_names = ClassNames::any();
    options
}

enum Open {
    List(ListHead),
    Map(MapHead, bool),
    Object(ObjectHead, usize),
}

/// One step through a message after the other, each either a token or the end of what is open.
#[derive(Default)]
struct Walk {
    open: Vec<Open>,
    told: Vec<String>,
}

impl Walk {
    /// Takes one step, or none when the reader has too little for it.
    fn step(&mut self, reader: &mut Reader<'_, '_>) -> Result<(), HessianError> {
        let has_more = match self.open.last_mut() {
            None => true,
            Some(Open::List(head)) => {
                // What a step changes must not stay when the step is not made.
                let mut next = head.clone();
                let has_more = reader.next_item(&mut next)?;
                let token = has_more.then(|| reader.token()).transpose()?;
                *head = next;
                return self.take(token, reader);
            }
            Some(Open::Map(_, true)) => true,
            Some(Open::Map(head, false)) => reader.next_entry(head)?,
            Some(Open::Object(_, left)) => *left > 0,
        };
        if let (false, Some(Open::Object(head, _))) = (has_more, self.open.last()) {
            reader.end_object(head);
        }
        let token = has_more.then(|| reader.token()).transpose()?;
        match self.open.last_mut() {
            Some(Open::Map(_, inside)) => *inside = !*inside,
            Some(Open::Object(_, left)) => *left = left.saturating_sub(1),
            _ => {}
        }
        self.take(token, reader)
    }

    fn take(&mut self, token: Option<Token<'_>>, reader: &Reader<'_, '_>) -> Result<(), HessianError> {
        self.told.push(format!("{token:?}"));
        match token {
            None => {
                self.open.pop();
            }
            Some(Token::List(head)) => self.open.push(Open::List(head)),
            Some(Token::Map(head)) => self.open.push(Open::Map(head, false)),
            Some(Token::Object(head)) => {
                let names: Vec<_> = reader.field_names(head.class).collect();
                self.told.push(format!("{} {names:?}", reader.class_name(head.class)));
                self.open.push(Open::Object(head.clone(), names.len()));
            }
            Some(_) => {}
        }
        Ok(())
    }
}

#[test]
fn tokens_come_as_soon_as_they_are_whole_and_are_those_of_the_whole_message() {
    for (dialect, text) in ALL {
        let options = options(dialect);
        for (name, bytes) in vectors(text) {
            let mut whole = Walk::default();
            let mut reader = Reader::new(&bytes, &options).unwrap();
            while !(reader.is_at_end() && whole.open.is_empty()) {
                whole.step(&mut reader).unwrap();
            }
            for piece in [1, 7] {
                let mut incoming = Incoming::new(&options);
                let mut walk = Walk::default();
                for part in bytes.chunks(piece) {
                    incoming.feed(part).unwrap();
                    while !incoming.is_at_end() && incoming.read(|reader| walk.step(reader)).unwrap().is_some() {}
                }
                while !walk.open.is_empty() {
                    incoming.read(|reader| walk.step(reader)).unwrap().unwrap();
                }
                assert_eq!(walk.told, whole.told, "{name} in pieces of {piece}");
                incoming.finish().unwrap();
            }
        }
    }
}

#[test]
fn an_attempt_that_ran_out_of_bytes_leaves_nothing_behind() {
    for (dialect, text) in ALL {
        let options = options(dialect);
        for (name, bytes) in vectors(text) {
            let mut reader = Reader::new(&bytes, &options).unwrap();
            let mut incoming = Incoming::new(&options);
            let mut fed = bytes.iter();
            while !reader.is_at_end() {
                let expected = Document::read(&mut reader).unwrap();
                loop {
                    // Whole documents, so that each attempt has met classes, types and references.
                    match incoming.read(|reader| Document::read(reader)).unwrap() {
                        // By their words, in which NaN is NaN.
                        Some(document) => break assert_eq!(format!("{document:?}"), format!("{expected:?}"), "{name}"),
                        None => {
                            let byte = fed.next().unwrap_or_else(|| panic!("{name}: {expected:?} is not read"));
                            incoming.feed(&[*byte]).unwrap();
                        }
                    }
                }
                assert_eq!(incoming.position(), reader.position(), "{name}");
            }
        }
    }
}

fn arrives<T: for<'a> HessianDecode<'a> + PartialEq + Debug>(dialect: Dialect, text: &str, name: &str) {
    let (options, bytes) = (options(dialect), vector(text, name));
    let mut reader = Reader::new(&bytes, &options).unwrap();
    let mut incoming = Incoming::new(&options);
    let mut fed = bytes.chunks(3);
    while !reader.is_at_end() {
        let expected = T::decode_next(&mut reader).unwrap();
        let read = loop {
            match incoming.read(T::decode_next).unwrap() {
                Some(value) => break value,
                None => incoming.feed(fed.next().unwrap()).unwrap(),
            }
        };
        assert_eq!(read, expected, "{name}");
    }
    incoming.finish().unwrap();
}

#[test]
fn derived_types_are_read_one_by_one() {
    for (dialect, text) in ALL {
        arrives::<java::BigDecimal>(dialect, text, "big-decimal-0");
        arrives::<java::Calendar>(dialect, text, "calendar-0");
        arrives::<java::Locale>(dialect, text, "locale-0");
        arrives::<java::Date>(dialect, text, "dates-0");
    }
    // Their classes have the fields in another order, whose places are found anew by each attempt.
    arrives::<java::LocalDateTime>(Dialect::Hessian2, LITE, "local-date-time-0");
}

#[test]
fn what_an_attempt_closed_is_open_again() {
    // A list of one, then a reference to it, of which the last byte is missing.
    let options = DecodeOptions::new(Dialect::Hessian2);
    let mut incoming = Incoming::new(&options);
    incoming.feed(b"\x79\x91\x51").unwrap();
    let Some(Token::List(mut head)) = incoming.read(|reader| reader.token()).unwrap() else {
        panic!("a list begins");
    };
    assert_eq!(incoming.read(|reader| reader.next_item(&mut head)), Ok(Some(true)));
    assert_eq!(incoming.read(i32::decode_next), Ok(Some(1)));
    let behind = |incoming: &mut Incoming<'_>| {
        let closed = incoming.read(|reader| {
            let has_more = reader.next_item(&mut head.clone())?;
            Ok((has_more, reader.token().map(|token| token.kind())?))
        });
        closed.unwrap()
    };
    assert_eq!(behind(&mut incoming), None);
    incoming.feed(b"\x90").unwrap();
    // Inside of the list the reference would be the list itself.
    let cycle = incoming.read(<Vec<i32>>::decode_next);
    assert!(matches!(cycle, Err(HessianError::Cycle { .. })), "{cycle:?}");
}

#[test]
fn no_more_is_taken_in_than_a_message_may_have_and_nothing_may_be_left() {
    let mut options = DecodeOptions::new(Dialect::Hessian2);
    options.limits.message_bytes = 4;
    let mut incoming = Incoming::new(&options);
    incoming.feed(b"\x91\x92\x93").unwrap();
    let error = incoming.feed(b"\x94\x95").unwrap_err();
    assert_eq!(error.code().to_string(), "HE0010");
    assert_eq!(incoming.read(i32::decode_next), Ok(Some(1)));
    let left = incoming.finish();
    assert_eq!(left, Err(HessianError::TrailingBytes { count: 2 }));
}
