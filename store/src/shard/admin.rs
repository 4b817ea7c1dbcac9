//! Looking at sessions without touching them.
//!
//! Part of [`Shard`]. Invariant: nothing here changes a session or its place in any order.

use super::Shard;
use super::slab::flag;
use crate::fields::Name;
use crate::id::Sid;
use crate::session::View;

/// Places that one page looks at, at most.
const SCAN: usize = 16_384;

/// Sessions with a value of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The field.
    pub name: Name,
    /// The value, as JSON.
    pub value: Box<[u8]>,
}

/// Some sessions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// Them.
    pub sessions: Vec<View>,
    /// Where the next page begins; `None` at the end. A page may be empty and still have a next.
    pub next: Option<u32>,
}

/// Of the sessions of one subject, over all shards, those that must end so that no more than `max` are
/// left, `this` one among them: the oldest, by their creation.
pub fn surplus(mut all: Vec<(u64, Sid)>, this: &Sid, max: u32) -> Vec<Sid> {
    all.retain(|(_, sid)| sid != this);
    all.sort_unstable();
    let room = (max as usize).saturating_sub(1);
    let over = all.len().saturating_sub(room);
    all.into_iter().take(over).map(|(_, sid)| sid).collect()
}

impl Shard {
    fn view(&self, slot: u32, now: u64) -> View {
        let entry = self.store.at(slot);
        let mut data = Vec::new();
        self.write_entry_json(entry, now, &mut data);
        let expires = self.expires(slot);
        View {
            record: self.record(slot),
            created: entry.created_unix(),
            last_access: entry.last_access.start(),
            expires: (expires != u64::MAX).then_some(expires),
            requests: self.store.requests(slot),
            version: self.store.version(slot),
            authenticated: entry.has(flag::AUTHENTICATED),
            subject: self
                .store
                .blob(entry)
                .get(self.policy.subject())
                .map(Into::into),
            data,
        }
    }

    /// One session, unless it has expired.
    pub fn get(&self, sid: &Sid, now: u64) -> Option<View> {
        let slot = self.find(sid)?;
        (self.expires(slot) > now).then(|| self.view(slot, now))
    }

    /// The sessions of a subject (JSON): when each was created, Unix ms, and its name.
    pub fn of_subject(&self, subject: &[u8], now: u64) -> Vec<(u64, Sid)> {
        let index = self.indexes.first();
        let all = index.map(|i| i.all(&self.store, subject));
        all.into_iter()
            .flatten()
            .filter(|slot| self.expires(*slot) > now)
            .map(|slot| self.store.at(slot))
            .map(|entry| (entry.created_unix(), entry.sid))
            .collect()
    }

    /// Whether a session has this subject (JSON).
    pub fn is_subjects(&self, sid: &Sid, subject: &[u8], now: u64) -> bool {
        self.find(sid).is_some_and(|slot| {
            self.expires(slot) > now
                && self.store.value(slot, self.policy.subject()) == Some(subject)
        })
    }

    /// Up to `limit` sessions from `cursor` (0 at first) on, in an order that stays under change.
    pub fn list(&self, cursor: u32, limit: usize, filter: Option<&Filter>, now: u64) -> Page {
        let indexed = filter.and_then(|f| {
            Some((
                f,
                self.indexes
                    .iter()
                    .find(|i| i.name() == f.name.as_bytes())?,
            ))
        });
        let mut page = Page::default();
        if let Some((filter, index)) = indexed {
            let mut slots: Vec<u32> = index
                .all(&self.store, &filter.value)
                .filter(|s| *s >= cursor)
                .collect();
            slots.sort_unstable();
            page.next = slots.get(limit).copied();
            slots.truncate(limit);
            page.sessions = slots
                .into_iter()
                .filter_map(|slot| self.shown(slot, None, now))
                .collect();
            return page;
        }
        let end = self.store.high().min(cursor.saturating_add(SCAN as u32));
        for slot in cursor..end {
            if page.sessions.len() >= limit {
                page.next = Some(slot);
                return page;
            }
            page.sessions.extend(self.shown(slot, filter, now));
        }
        page.next = (end < self.store.high()).then_some(end);
        page
    }

    fn shown(&self, slot: u32, filter: Option<&Filter>, now: u64) -> Option<View> {
        self.store.live(slot)?;
        let matches =
            filter.is_none_or(|f| self.store.value(slot, f.name.as_bytes()) == Some(&*f.value));
        (matches && self.expires(slot) > now).then(|| self.view(slot, now))
    }

    /// The sessions whose indexed field `name` has `value` (JSON); nothing where `name` is not indexed.
    pub fn find_by(&self, name: &Name, value: &[u8]) -> impl Iterator<Item = Sid> + use<'_> {
        let index = self.indexes.iter().find(|i| i.name() == name.as_bytes());
        let all = index.map(|i| i.all(&self.store, value));
        all.into_iter()
            .flatten()
            .map(|slot| self.store.at(slot).sid)
    }
}
