use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;

use super::*;

/// Longer than any of these tests takes, if nothing is wrong.
const PATIENCE: Duration = Duration::from_secs(20);

/// Requests that threads take as a session's do: from a queue, one after the other, resting between them if they are too many.
struct Session {
    threads: Arc<Threads>,
    requests: Option<Sender<Job>>,
    running: Vec<thread::JoinHandle<()>>,
}

type Job = Box<dyn FnOnce() + Send>;

impl Session {
    fn new(count: usize, places: usize) -> Self {
        let threads = Arc::new(Threads::of(count, places));
        let (requests, queue) = channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let running = (0..count)
            .map(|_| {
                let (threads, queue) = (Arc::clone(&threads), Arc::clone(&queue));
                thread::spawn(move || {
                    while let Some(job) = next(&queue) {
                        threads.call(Kind::Read, 0, job);
                        threads.rest();
                    }
                })
            })
            .collect();
        Self { threads, requests: Some(requests), running }
    }

    fn ask(&self, job: impl FnOnce() + Send + 'static) {
        self.requests.as_ref().expect("it runs").send(Box::new(job)).unwrap();
    }

    /// Lets every thread take a request at once, so that those who are too many then rest.
    fn settle(&self) {
        let all = Arc::new(std::sync::Barrier::new(self.running.len()));
        for _ in 0..self.running.len() {
            let all = Arc::clone(&all);
            self.ask(move || {
                all.wait();
            });
        }
        let resting = self.threads.count() - self.threads.places;
        let start = std::time::Instant::now();
        while self.threads.crew.lock().resting < resting {
            assert!(start.elapsed() < PATIENCE, "they do not rest");
            thread::yield_now();
        }
    }

    fn finish(mut self) {
        self.threads.end();
        self.requests.take();
        for thread in self.running.drain(..) {
            thread.join().unwrap();
        }
        assert_eq!(self.threads.awake.load(Ordering::SeqCst), self.threads.count());
    }
}

fn next(queue: &Mutex<Receiver<Job>>) -> Option<Job> {
    queue.lock().recv().ok()
}

/// A request that waits until it is told to go on.
fn hanging(session: &Session) -> Sender<()> {
    let (go_on, wait) = channel();
    let (begun, has_begun) = channel();
    session.ask(move || {
        begun.send(()).unwrap();
        let _ = wait.recv();
    });
    has_begun.recv_timeout(PATIENCE).expect("somebody takes it");
    go_on
}

#[test]
fn d10_requests_are_served_while_others_hang_in_the_host() {
    let session = Session::new(4, 1);
    session.settle();
    // One more hangs than may be awake, and then another one.
    let hanging: Vec<_> = (0..3).map(|_| hanging(&session)).collect();
    let (done, is_done) = channel();
    session.ask(move || done.send(()).unwrap());
    is_done.recv_timeout(PATIENCE).expect("a thread that rested serves it");
    drop(hanging);
    session.finish();
}

#[test]
fn no_more_are_awake_than_there_are_places() {
    let session = Session::new(6, 2);
    session.settle();
    assert_eq!(session.threads.awake.load(Ordering::SeqCst), 2);
    let (done, is_done) = channel();
    for _ in 0..1000 {
        let done = done.clone();
        session.ask(move || done.send(()).unwrap());
    }
    for _ in 0..1000 {
        is_done.recv_timeout(PATIENCE).unwrap();
    }
    session.finish();
}

#[test]
fn the_end_wakes_all_at_once() {
    let session = Session::new(8, 1);
    session.settle();
    let start = std::time::Instant::now();
    session.finish();
    assert!(start.elapsed() < REST, "{:?}", start.elapsed());
}

#[test]
fn those_who_wait_for_the_host_lend_their_place_from_the_beginning() {
    let threads = Threads::of(2, 1);
    let expectation = &threads.flushes;
    // The first slow one is suspected, the second one is seen to sleep.
    for _ in 0..2 {
        assert!(!expectation.is_slow());
        threads.call(Kind::Flush, 0, || asleep(Duration::from_millis(5)));
    }
    assert!(expectation.is_slow());
    assert!(!threads.reads.is_slow(), "each kind by itself");
    let awake = threads.call(Kind::Flush, 0, || threads.awake.load(Ordering::SeqCst));
    assert_eq!(awake, 1, "of two, one has lent its place");
    assert_eq!(threads.awake.load(Ordering::SeqCst), 2);
    for _ in 0..10_000 {
        threads.call(Kind::Flush, 0, || ());
    }
    assert!(!expectation.is_slow(), "a fast host is believed again");
}

#[test]
fn those_who_only_compute_do_not_lend_their_place() {
    let threads = Threads::of(2, 1);
    for _ in 0..8 {
        threads.call(Kind::Read, 0, || {
            let start = std::time::Instant::now();
            while start.elapsed() < Duration::from_millis(2) {
                std::hint::spin_loop();
            }
        });
    }
    assert!(!threads.reads.is_slow());
}

/// Waits as for a slow host: asleep, on something that does not come.
fn asleep(time: Duration) {
    let (_never, nothing) = channel::<()>();
    assert_eq!(nothing.recv_timeout(time), Err(RecvTimeoutError::Timeout));
}
