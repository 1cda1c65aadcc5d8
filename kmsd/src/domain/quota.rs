//! How many of something there may be: in all, and of one principal, so that nobody takes the others' places.

use super::principal::Caller;

/// Bounds on a number of things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Of all principals together.
    pub all: usize,
    /// Of one, administrators aside.
    pub each: usize,
}

/// How many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Of all principals together.
    pub all: usize,
    /// The caller's own.
    pub own: usize,
}

/// Which bound is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exceeded {
    /// That of all.
    All(usize),
    /// That of one principal.
    Each(usize),
}

impl Quota {
    /// Whether a caller may have another one.
    ///
    /// # Errors
    /// The bound that is reached.
    pub const fn admit(self, caller: &Caller, there: Count) -> Result<(), Exceeded> {
        if there.all >= self.all {
            return Err(Exceeded::All(self.all));
        }
        if !caller.is_admin && there.own >= self.each {
            return Err(Exceeded::Each(self.each));
        }
        Ok(())
    }

    /// What a caller has of what it may have.
    #[must_use]
    pub fn share(self, caller: &Caller, there: Count) -> (usize, usize) {
        if caller.is_admin { (there.all, self.all) } else { (there.own, self.each.min(self.all)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Principal;

    #[test]
    fn administrators_are_bound_by_the_number_of_all_only() {
        let quota = Quota { all: 5, each: 3 };
        let user = Caller { principal: Principal::Uid(1), is_admin: false };
        for (caller, own, all, admitted) in [
            (&user, 2, 4, Ok(())),
            (&user, 3, 4, Err(Exceeded::Each(3))),
            (&user, 0, 5, Err(Exceeded::All(5))),
            (&Caller::SYSTEM, 4, 4, Ok(())),
            (&Caller::SYSTEM, 0, 5, Err(Exceeded::All(5))),
        ] {
            assert_eq!(quota.admit(caller, Count { all, own }), admitted, "{own} {all}");
        }
    }

    #[test]
    fn a_share_is_of_what_can_be_had() {
        let there = Count { all: 4, own: 2 };
        let user = Caller { principal: Principal::Uid(1), is_admin: false };
        assert_eq!(Quota { all: 5, each: 3 }.share(&user, there), (2, 3));
        assert_eq!(Quota { all: 5, each: 30 }.share(&user, there), (2, 5));
        assert_eq!(Quota { all: 5, each: 3 }.share(&Caller::SYSTEM, there), (4, 5));
    }
}
