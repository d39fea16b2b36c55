use settle_storage::{DiskError, DiskErrorKind, DiskRead};

use crate::{
    Entry, History,
    format::{get_entry, get_head},
    gaps::GAP_ID,
    history::read_whole,
};

/// What is looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Search {
    /// Only entries about this.
    pub id: Option<i64>,
    /// Only entries recorded from then on, in milliseconds since 1970.
    pub from_ms: Option<u64>,
    /// Only entries recorded before.
    pub until_ms: Option<u64>,
    /// Only entries before this one: `next` of the page before.
    pub before: Option<Cursor>,
    /// Entries of a page, at most.
    pub limit: usize,
    /// Bytes that are read for one page, about; at least one segment.
    pub bytes_max: u64,
}

/// A place in the record: an entry, or the end of a segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Cursor {
    pub segment: u64,
    pub offset: u64,
}

/// An entry that was looked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    pub group: u8,
    pub index: u64,
    pub id: i64,
    pub wall_ms: u64,
    pub payload: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Page {
    /// Newest first.
    pub found: Vec<Found>,
    /// Where to go on; a page may be short, or empty, and yet not be the last.
    pub next: Option<Cursor>,
    /// Segments of which a part could not be read.
    pub damaged: u32,
}

impl<D: DiskRead> History<D> {
    /// Looks through what is on the disk, newest first; what is not flushed is not found.
    ///
    /// # Errors
    /// When the disk fails otherwise than by damage.
    pub fn search(
        &mut self,
        search: &Search,
        mut is_wanted: impl FnMut(&Entry<'_>) -> bool,
    ) -> Result<Page, DiskError> {
        let mut page = Page::default();
        let mut bytes_read = 0;
        let segments = self.segments.clone();
        for segment in segments.iter().rev() {
            let end = match search.before {
                Some(before) if segment.number > before.segment => continue,
                Some(before) if segment.number == before.segment => before.offset,
                _ => u64::MAX,
            };
            let may_hold = segment.summary.is_none_or(|summary| {
                search
                    .id
                    .is_none_or(|id| (summary.id_min..=summary.id_max).contains(&id))
                    && search.from_ms.is_none_or(|from| summary.wall_ms_last >= from)
            });
            if !may_hold || search.until_ms.is_some_and(|until| segment.wall_ms_first > until) {
                continue;
            }
            if bytes_read > 0 && bytes_read + segment.bytes > search.bytes_max {
                page.next = Some(Cursor {
                    segment: segment.number,
                    offset: end.min(segment.bytes),
                });
                return Ok(page);
            }
            bytes_read += segment.bytes;
            let bytes = match read_whole(&mut self.disk, segment) {
                Ok(bytes) => bytes,
                Err(error) if matches!(error.kind, DiskErrorKind::Unreadable | DiskErrorKind::NotFound) => {
                    page.damaged += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let mut wanted = Vec::new();
            let mut at = get_head(&bytes).map_or(0, |(_, end)| end);
            while let Some((entry, len)) = get_entry(&bytes[at..]) {
                let fits = entry.id != GAP_ID
                    && search.id.is_none_or(|id| id == entry.id)
                    && search.from_ms.is_none_or(|from| entry.wall_ms >= from)
                    && search.until_ms.is_none_or(|until| entry.wall_ms < until);
                if (at as u64) < end && fits && is_wanted(&entry) {
                    wanted.push((at, entry));
                }
                at += len;
            }
            page.damaged += u32::from(at < bytes.len());
            for (at, entry) in wanted.into_iter().rev() {
                if page.found.len() == search.limit {
                    return Ok(page);
                }
                page.next = Some(Cursor {
                    segment: segment.number,
                    offset: at as u64,
                });
                page.found.push(Found {
                    group: entry.group,
                    index: entry.index,
                    id: entry.id,
                    wall_ms: entry.wall_ms,
                    payload: entry.payload.to_vec(),
                });
            }
        }
        page.next = None;
        Ok(page)
    }
}
