use std::{borrow::Borrow, fmt, ops::Deref, sync::Arc};

use settle_base::FixedMap;

/// A text that many transactions share. It takes the room of one pointer in each of them, which is why it is held behind
/// two: a million open transactions have six each.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Name(Arc<Box<str>>);

impl From<&str> for Name {
    fn from(text: &str) -> Name {
        Name(Arc::new(text.into()))
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        self
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// Texts that many transactions share (applications, resources, clients), each held once, and a number for each.
///
/// The numbers are of this replica only: they depend on what was loaded when, and never leave it.
#[derive(Default)]
pub(crate) struct Names {
    entries: FixedMap<Name, Entry>,
    free: Vec<u32>,
}

/// A name's number where the replicated state is compared or shown: it is no part of it.
#[derive(Clone, Copy)]
pub(crate) struct LocalNumber(pub u32);

impl PartialEq for LocalNumber {
    fn eq(&self, _: &LocalNumber) -> bool {
        true
    }
}

impl Eq for LocalNumber {}

impl fmt::Debug for LocalNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("_")
    }
}

struct Entry {
    number: u32,
    uses: u32,
}

impl Names {
    /// Counts one more use of `text`; each must be given back with [`Names::release`].
    pub fn take(&mut self, text: &str) -> Name {
        if let Some((name, _)) = self.entries.get_key_value(text) {
            let name = name.clone();
            self.entries.get_mut(text).expect("it was just found").uses += 1;
            return name;
        }
        let name = Name::from(text);
        let number = self.free.pop().unwrap_or(self.entries.len() as u32);
        self.entries.insert(name.clone(), Entry { number, uses: 1 });
        name
    }

    pub fn release(&mut self, name: &str) {
        let entry = self.entries.get_mut(name).expect("a name in use is in the table");
        entry.uses -= 1;
        if entry.uses == 0 {
            self.free.push(entry.number);
            self.entries.remove(name);
        }
    }

    /// The number of a name in use.
    pub fn number(&self, name: &str) -> Option<u32> {
        self.entries.get(name).map(|entry| entry.number)
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_names_in_use_never_share_a_number_and_unused_ones_are_forgotten() {
        let mut names = Names::default();
        names.take("a");
        names.take("b");
        names.take("a");
        names.release("a");
        assert_eq!(names.number("a"), Some(0));
        names.release("a");
        assert_eq!((names.number("a"), names.len()), (None, 1));
        names.take("c");
        names.take("d");
        let mut numbers: Vec<_> = ["b", "c", "d"].iter().filter_map(|name| names.number(name)).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [0, 1, 2]);
    }
}
