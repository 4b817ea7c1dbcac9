//! The index by a field's value: who finds "all sessions of u1" without a scan.
//!
//! Owns, for one field, a table of the first session of each value and links that run through the
//! others, in chunks beside the slab. The values stay in the sessions. Used by one shard. Invariants: a
//! session is linked exactly while readers see a value of the field; it is unlinked before that value
//! changes. Deliberately absent: order among the sessions of a value. Tested through the shard and the
//! simulator.

use super::slab::{CHUNK, NIL, Store};
use super::table::Table;

type Links = Box<[[u32; 2]]>;

/// The index of one field.
#[derive(Debug)]
pub(crate) struct FieldIndex {
    name: Box<[u8]>,
    table: Table,
    /// By slot: the neighbours among the sessions of one value.
    links: Vec<Links>,
    /// Seeded: values are chosen by clients.
    hasher: ahash::RandomState,
}

impl FieldIndex {
    pub(crate) fn new(name: Box<[u8]>, hasher: ahash::RandomState) -> Self {
        Self {
            name,
            table: Table::new(),
            links: Vec::new(),
            hasher,
        }
    }

    pub(crate) fn name(&self) -> &[u8] {
        &self.name
    }

    fn link(&self, slot: u32) -> [u32; 2] {
        self.links[slot as usize / CHUNK][slot as usize % CHUNK]
    }

    fn link_mut(&mut self, slot: u32) -> &mut [u32; 2] {
        while self.links.len() <= slot as usize / CHUNK {
            self.links.push(vec![[NIL; 2]; CHUNK].into());
        }
        &mut self.links[slot as usize / CHUNK][slot as usize % CHUNK]
    }

    fn hash(&self, value: &[u8]) -> u64 {
        self.hasher.hash_one(value)
    }

    fn hash_slot(&self, store: &Store, slot: u32) -> u64 {
        self.hash(store.value(slot, &self.name).unwrap_or_default())
    }

    /// The first session with `value`.
    pub(crate) fn first(&self, store: &Store, value: &[u8]) -> Option<u32> {
        self.table.find(self.hash(value), |slot| {
            store.value(slot, &self.name) == Some(value)
        })
    }

    /// All sessions with `value`.
    pub(crate) fn all<'a>(
        &'a self,
        store: &Store,
        value: &[u8],
    ) -> impl Iterator<Item = u32> + use<'a> {
        std::iter::successors(self.first(store, value), |slot| {
            Some(self.link(*slot)[1]).filter(|n| *n != NIL)
        })
    }

    /// Links a session by the value that it has now, if it has one.
    pub(crate) fn insert(&mut self, store: &Store, slot: u32) {
        let Some(value) = store.value(slot, &self.name) else {
            return;
        };
        let hash = self.hash(value);
        match self.first(store, value) {
            None => {
                *self.link_mut(slot) = [NIL; 2];
                let Self {
                    table,
                    hasher,
                    name,
                    ..
                } = self;
                table.insert(hash, slot, |s| {
                    hasher.hash_one(store.value(s, name).unwrap_or_default())
                });
            }
            // Second in the list, so that the table need not change.
            Some(first) => {
                let second = self.link(first)[1];
                *self.link_mut(slot) = [first, second];
                self.link_mut(first)[1] = slot;
                if second != NIL {
                    self.link_mut(second)[0] = slot;
                }
            }
        }
    }

    /// Unlinks a session, before its value changes or goes.
    pub(crate) fn remove(&mut self, store: &Store, slot: u32) {
        if store.value(slot, &self.name).is_none() {
            return;
        }
        let [prev, next] = self.link(slot);
        if next != NIL {
            self.link_mut(next)[0] = prev;
        }
        if prev != NIL {
            self.link_mut(prev)[1] = next;
            return;
        }
        let hash = self.hash_slot(store, slot);
        if next != NIL {
            self.table.replace(hash, slot, next);
        } else {
            let Self {
                table,
                hasher,
                name,
                ..
            } = self;
            table.remove(hash, slot, |s| {
                hasher.hash_one(store.value(s, name).unwrap_or_default())
            });
        }
    }
}
