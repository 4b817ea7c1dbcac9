//! Upstream ids as they are kept in pins: a tag that outlives positions.

use super::hash::hash64;

/// What a table pin stores: 64 bits of the upstream's id. The same in every process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UpstreamTag(pub u64);

impl UpstreamTag {
    /// The tag of an id.
    pub fn of(id: &str) -> Self {
        Self(hash64(id.as_bytes(), 0))
    }
}

/// The upstreams of one service as they stand now: tag to position and back. Immutable.
#[derive(Debug, Clone)]
pub struct Ids {
    /// By position.
    tags: Box<[UpstreamTag]>,
    /// Sorted by tag.
    positions: Box<[(UpstreamTag, u32)]>,
}

impl Ids {
    /// Positions are those of `ids`.
    pub fn new<'a>(ids: impl Iterator<Item = &'a str>) -> Self {
        let tags: Box<[_]> = ids.map(UpstreamTag::of).collect();
        let mut positions: Vec<_> = tags
            .iter()
            .zip(0u32..)
            .map(|(tag, at)| (*tag, at))
            .collect();
        positions.sort_unstable();
        Self {
            tags,
            positions: positions.into_boxed_slice(),
        }
    }

    /// How many upstreams there are.
    pub fn len(&self) -> usize {
        self.tags.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tags.is_empty()
    }

    /// The tag of the upstream at a position.
    pub fn tag(&self, upstream: usize) -> Option<UpstreamTag> {
        self.tags.get(upstream).copied()
    }

    /// Where the upstream of this tag stands now; `None` if it is gone.
    pub fn position(&self, tag: UpstreamTag) -> Option<usize> {
        let at = self
            .positions
            .binary_search_by_key(&tag, |entry| entry.0)
            .ok()?;
        self.positions.get(at).map(|entry| entry.1 as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_survives_a_change_of_positions() {
        let before = Ids::new(["a", "b", "c"].into_iter());
        let after = Ids::new(["new", "c", "b"].into_iter());
        let of = |ids: &Ids, at| ids.tag(at).unwrap();
        assert_eq!(after.position(of(&before, 1)), Some(2));
        assert_eq!(after.position(of(&before, 2)), Some(1));
        assert_eq!(after.position(of(&before, 0)), None);
        assert_eq!(
            (before.len(), before.is_empty(), before.tag(3)),
            (3, false, None)
        );
    }
}
