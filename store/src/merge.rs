//! Merging: how two records of one session become one.
//!
//! Owns the join of [`Record`]s; a shard applies it to its entries through [`crate::shard::Shard::merge`],
//! the one way in for requests, stores, peers and snapshots alike. Plain functions. Invariants: the join
//! commutes, associates and repeats, whatever the bytes; destroy absorbs everything; nothing is lost but
//! what is over [`SECRETS`]. Deliberately absent: drift bounds and what to do with the result.
//! Tested by property here.

use crate::record::{Counter, Record, RecordField, SECRETS, SecretEntry, blob};

/// What merging a change into a shard did. Events go into the shard's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effect {
    /// Something of the record is different now.
    pub changed: bool,
    /// The session was not here before.
    pub created: bool,
    /// The session was here and is destroyed.
    pub destroyed: bool,
    /// How many events were told.
    pub events: u32,
}

impl Record {
    /// Takes in all that `other`, a record of the same session, knows.
    pub fn join(&mut self, other: &Self) {
        // Created is the smaller of the two, with its tag.
        (self.created, self.birth) = (self.created, self.birth).min((other.created, other.birth));
        self.destroyed = self.destroyed.max(other.destroyed);
        if self.destroyed.is_some() {
            let (sid, created, birth, destroyed) =
                (self.sid, self.created, self.birth, self.destroyed);
            *self = Self {
                destroyed,
                ..Self::change(sid, created, birth)
            };
            return;
        }
        self.last_access = self.last_access.max(other.last_access);
        self.signed |= other.signed;
        self.idle = self.idle.max(other.idle);
        if let Some(other) = other.traits.as_ref().filter(|t| !t.is_empty()) {
            self.traits.get_or_insert_default().join(other);
        }
        join_secrets(&mut self.secrets, &other.secrets);
        join_counters(&mut self.counters, &other.counters);
        let mut merged = smallvec::SmallVec::new();
        let changed = blob::join(
            self.fields.iter().map(RecordField::as_ref),
            other.fields.iter().map(RecordField::as_ref),
            &mut merged,
        );
        let fields: Option<Vec<_>> = changed.then(|| merged.iter().map(|f| f.to_owned()).collect());
        drop(merged);
        if let Some(fields) = fields {
            self.fields = fields;
        }
    }
}

/// A set of entries, the highest ranks first, cut to [`SECRETS`].
pub(crate) fn join_secrets(ours: &mut Vec<SecretEntry>, theirs: &[SecretEntry]) {
    for entry in theirs {
        match ours.iter_mut().find(|e| e.rank() == entry.rank()) {
            Some(same) => {
                same.first_use = same.first_use.min(entry.first_use);
                same.clock = same.clock.max(entry.clock);
            }
            None => ours.push(*entry),
        }
    }
    ours.sort_by_key(|e| std::cmp::Reverse(e.rank()));
    ours.truncate(SECRETS);
}

pub(crate) fn join_counters(ours: &mut Vec<Counter>, theirs: &[Counter]) {
    for counter in theirs {
        match ours.binary_search_by_key(&counter.tag, |c| c.tag) {
            Ok(at) => {
                if let Some(same) = ours.get_mut(at) {
                    same.changes = same.changes.max(counter.changes);
                    same.requests = same.requests.max(counter.requests);
                }
            }
            Err(at) => ours.insert(at, *counter),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hlc::Stamp;
    use crate::id::{Digest, NodeTag, Sid};
    use crate::record::Idle;
    use crate::record::blob::tests::any_fields;
    use crate::time::Quarter;
    use crate::traits::Traits;

    fn any_secret() -> impl Strategy<Value = SecretEntry> {
        (
            0u32..3,
            0u32..3,
            0u64..3,
            0u8..3,
            any::<bool>(),
            0u64..2,
            0u32..3,
        )
            .prop_map(
                |(epoch, generation, clock, digest, authenticated, subject, first_use)| {
                    SecretEntry {
                        epoch,
                        generation,
                        clock,
                        digest: Digest([digest; 16]),
                        authenticated,
                        subject,
                        first_use: Quarter(first_use),
                    }
                },
            )
    }

    prop_compose! {
        /// Any record of one session, well formed.
        pub(crate) fn any_record()(
            created in 5u64..8,
            birth in 0u16..3,
            last_access in 0u32..5,
            signed: bool,
            idle in proptest::option::of((0u64..3, 0u64..3)),
            traits in proptest::option::of((proptest::array::uniform8(0u64..3), 0u16..3)),
            secrets in proptest::collection::vec(any_secret(), 0..9),
            counters in proptest::collection::vec((0u16..4, 0u32..4, 0u32..4), 0..4),
            fields in any_fields(),
            destroyed in prop_oneof![9 => Just(None), 1 => (0u64..4).prop_map(Some)],
        ) -> Record {
            let mut record = Record::change(Sid([9; 16]), created, NodeTag::new(birth));
            record.destroyed = destroyed;
            let mut rest = Record::change(record.sid, created, record.birth);
            rest.last_access = Quarter(last_access);
            rest.signed = signed;
            rest.idle = idle.map(|(clock, ms)| Idle { stamp: Stamp { clock, tag: 0 }, ms: ms << 50 });
            let traits = traits.map(|(digests, major)| Traits { digests, major });
            rest.traits = traits.filter(|t| !t.is_empty());
            join_secrets(&mut rest.secrets, &secrets);
            for (tag, changes, requests) in counters {
                join_counters(&mut rest.counters, &[Counter { tag: NodeTag::new(tag), changes, requests }]);
            }
            rest.fields = fields;
            record.join(&rest);
            record
        }
    }

    fn joined(mut a: Record, b: &Record) -> Record {
        a.join(b);
        a
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1024))]

        #[test]
        fn commutes(a in any_record(), b in any_record()) {
            prop_assert_eq!(joined(a.clone(), &b), joined(b, &a));
        }

        #[test]
        fn associates(a in any_record(), b in any_record(), c in any_record()) {
            prop_assert_eq!(joined(joined(a.clone(), &b), &c), joined(a, &joined(b, &c)));
        }

        #[test]
        fn repeats(a in any_record(), b in any_record()) {
            let once = joined(a, &b);
            prop_assert_eq!(joined(once.clone(), &b), once.clone());
            prop_assert_eq!(joined(once.clone(), &once), once);
        }

        #[test]
        fn destroy_absorbs(a in any_record(), b in any_record()) {
            let dead = Record { destroyed: Some(9), ..b };
            let after = joined(a, &dead);
            prop_assert!(after.destroyed >= Some(9));
            prop_assert!(after.fields.is_empty() && after.secrets.is_empty() && after.idle.is_none());
        }
    }

    #[test]
    fn a_later_authentication_beats_a_later_clock() {
        let entry = |epoch, generation, clock, digest| SecretEntry {
            epoch,
            generation,
            clock,
            digest: Digest([digest; 16]),
            authenticated: false,
            subject: 0,
            first_use: Quarter(0),
        };
        let mut set = vec![entry(0, 0, 1, 1)];
        join_secrets(&mut set, &[entry(0, 5, 900, 2), entry(1, 0, 2, 3)]);
        assert_eq!(set.first().map(|e| e.digest), Some(Digest([3; 16])));
        join_secrets(&mut set, &[entry(1, 0, 3, 0)]);
        assert_eq!(
            set.first().map(|e| e.digest),
            Some(Digest([0; 16])),
            "of two logins the later"
        );
        for n in 10..20 {
            join_secrets(&mut set, &[entry(1, u32::from(n), 0, n)]);
        }
        assert_eq!(set.len(), SECRETS);
    }
}
