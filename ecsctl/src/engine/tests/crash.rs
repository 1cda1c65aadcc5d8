//! Killed before and within every step, and again while settling.

use super::*;

#[test]
fn d10_killed_before_any_step_and_again_while_settling_leaves_nothing_half_made() {
    let mut deaths = 0;
    for (change, work) in CHANGES {
        for step in 0.. {
            for again in 0..8 {
                let (world, server, disk) = ready_for(change);
                let context =
                    format!("{change}, killed before step {step} and before step {again} of settling");
                if dies_before(&world, step, |app| work(app, &server)) {
                    assert!(step > 1, "{change} has steps");
                    break;
                }
                deaths += 1;
                let id = disk.or_else(|| world.row("new").map(|disk| disk.id));
                dies_before(&world, again, |app| app.settle_all().map(|failed| assert!(failed.is_empty())));
                let failed = world.app().settle_all().unwrap();
                assert!(failed.is_empty(), "{context}: {failed:?}");
                world.assert_settled(id.unwrap(), &context);
            }
            let (world, server, _) = ready_for(change);
            if dies_before(&world, step, |app| work(app, &server)) {
                break;
            }
        }
    }
    assert!(deaths == 8 * 14, "only {deaths} deaths");
}

#[test]
fn d10_killed_within_the_engines_work_leaves_nothing_half_made() {
    for (change, trouble) in
        [("create", Trouble::DieInCreate), ("attach", Trouble::DieInMount), ("detach", Trouble::DieInUnmount)]
    {
        let (world, server, disk) = ready_for(change);
        let work = CHANGES.iter().find(|(name, _)| *name == change).unwrap().1;
        world.volumes.trouble(Some(trouble));
        let mut app = world.app();
        assert!(!survives(move || work(&mut app, &server).unwrap()), "{change} dies");
        let id = disk.or_else(|| world.row("new").map(|disk| disk.id)).unwrap();
        assert!(world.app().settle_all().unwrap().is_empty());
        world.assert_settled(id, change);
    }
}

#[test]
fn a_step_that_fails_undoes_what_was_done() {
    for (change, trouble) in [("create", Trouble::FailCreate), ("attach", Trouble::FailMount)] {
        let (world, server, disk) = ready_for(change);
        let work = CHANGES.iter().find(|(name, _)| *name == change).unwrap().1;
        world.volumes.trouble(Some(trouble));
        assert!(matches!(work(&mut world.app(), &server), Err(Error::Volume { .. })));
        match disk {
            Some(id) => world.assert_settled(id, change),
            None => assert_eq!((world.row("new"), world.files(Uuid::nil())), (None, vec![])),
        }
    }
}
