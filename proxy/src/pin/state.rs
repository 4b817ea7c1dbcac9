//! The states of an upstream: what the administrator set, what health decided, and what follows.

/// What the administrator set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum AdminState {
    /// Nothing: health decides.
    #[default]
    Ready = 0,
    /// No new clients.
    Drain = 1,
    /// Treated as failed until set otherwise.
    Down = 2,
    /// Out.
    Maint = 3,
}

impl AdminState {
    /// As the admin API writes it.
    pub fn name(self) -> &'static str {
        UpstreamState::from(self).name()
    }

    /// As the admin API reads it.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Ready, Self::Drain, Self::Down, Self::Maint]
            .into_iter()
            .find(|state| state.name() == name)
    }
}

/// What active checks and passive failures say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum HealthState {
    /// It serves.
    #[default]
    Up = 0,
    /// It serves and asks for no new clients (a check answered 404).
    Drain = 1,
    /// It does not serve.
    Down = 2,
}

impl From<AdminState> for UpstreamState {
    fn from(admin: AdminState) -> Self {
        match admin {
            AdminState::Ready => Self::Ready,
            AdminState::Drain => Self::Drain,
            AdminState::Down => Self::Down,
            AdminState::Maint => Self::Maint,
        }
    }
}

impl From<HealthState> for UpstreamState {
    fn from(health: HealthState) -> Self {
        match health {
            HealthState::Up => Self::Ready,
            HealthState::Drain => Self::Drain,
            HealthState::Down => Self::Down,
        }
    }
}

/// What an upstream may be given. Ordered by severity: of two opinions the graver one holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum UpstreamState {
    /// All clients.
    #[default]
    Ready = 0,
    /// Its pinned clients, no new ones.
    Drain = 1,
    /// Nothing: checks or failures say that it does not serve.
    Down = 2,
    /// Nothing: taken out by the administrator.
    Maint = 3,
}

/// Whom an upstream may serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Usable {
    /// Anyone.
    New,
    /// Only clients that are pinned to it.
    PinnedOnly,
    /// Nobody.
    No,
}

impl UpstreamState {
    /// Whom it may serve.
    pub fn usable(self) -> Usable {
        match self {
            Self::Ready => Usable::New,
            Self::Drain => Usable::PinnedOnly,
            Self::Down | Self::Maint => Usable::No,
        }
    }

    /// The state that holds, of the administrator's and of health's opinion: maint > down > drain > ready.
    pub fn combine(admin: AdminState, health: HealthState) -> Self {
        Self::from(admin).max(Self::from(health))
    }

    /// For an atomic or a message.
    pub fn to_u8(self) -> u8 {
        self as u8
    }

    /// Back from [`Self::to_u8`]; an unknown number is `Down`.
    pub fn from_u8(state: u8) -> Self {
        match state {
            0 => Self::Ready,
            1 => Self::Drain,
            3 => Self::Maint,
            _ => Self::Down,
        }
    }

    /// As the admin API writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Down => "down",
            Self::Maint => "maint",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use UpstreamState::{Down, Drain, Maint, Ready};

    #[test]
    fn the_graver_opinion_holds() {
        use {AdminState as A, HealthState as H};
        for (admin, health, held) in [
            (A::Ready, H::Up, Ready),
            (A::Ready, H::Drain, Drain),
            (A::Drain, H::Up, Drain),
            (A::Ready, H::Down, Down),
            (A::Drain, H::Down, Down),
            (A::Down, H::Up, Down),
            (A::Down, H::Drain, Down),
            (A::Maint, H::Down, Maint),
            (A::Maint, H::Up, Maint),
            (A::Maint, H::Drain, Maint),
        ] {
            assert_eq!(
                UpstreamState::combine(admin, health),
                held,
                "{admin:?} {health:?}"
            );
        }
    }

    #[test]
    fn numbers_and_names_return() {
        for state in [Ready, Drain, Down, Maint] {
            assert_eq!(UpstreamState::from_u8(state.to_u8()), state);
            let admin = AdminState::parse(state.name()).unwrap();
            assert_eq!(UpstreamState::from(admin), state);
        }
        assert_eq!(UpstreamState::from_u8(9), Down);
        assert_eq!(AdminState::parse("up"), None);
        assert_eq!(
            (Ready.usable(), Drain.usable()),
            (Usable::New, Usable::PinnedOnly)
        );
        assert_eq!((Down.usable(), Maint.usable()), (Usable::No, Usable::No));
    }
}
