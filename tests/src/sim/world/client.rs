//! Clients that reconnect: what was in flight when a tracker or a connection died is sent again, in its order, before
//! anything new goes to that disk (qemu's reconnect-delay, nbdkit's retry).

use super::*;

/// A request that was in flight. It keeps its token: what it writes is the same.
pub(super) struct Again {
    token: u64,
    disk: usize,
    /// None: a flush.
    what: Option<(Change, Range<usize>, bool)>,
}

impl Again {
    fn of(token: u64, request: &GuestRequest) -> Self {
        let what = (request.change, request.range.clone(), request.fua);
        Self { token, disk: request.disk, what: Some(what) }
    }
}

impl World {
    /// The tracker has died, and its clients live.
    pub(super) fn clients_wait(&mut self) {
        let requests = self.requests.iter().filter(|(_, request)| !request.forgotten);
        let requests = requests.map(|(token, request)| Again::of(*token, request));
        let flushes =
            self.flushes.iter().map(|(token, flush)| Again { token: *token, disk: flush.disk, what: None });
        let all: Vec<Again> = requests.chain(flushes).collect();
        self.is_sent_again(all);
    }

    fn is_sent_again(&mut self, all: Vec<Again>) {
        self.again.extend(all);
        self.again.make_contiguous().sort_by_key(|again| again.token);
    }

    /// Whether a client of this disk has something to send again before anything else.
    pub(super) fn is_behind(&self, disk: usize) -> bool {
        self.again.iter().any(|again| again.disk == disk)
    }

    /// The next request that may be sent again. W8: not before what its dead connection had submitted is over.
    pub(super) fn next_again(&self) -> Option<usize> {
        let drains = |disk| self.requests.values().any(|request| request.disk == disk && request.forgotten);
        self.again.iter().position(|again| !drains(again.disk))
    }

    /// A client sends a request again. It matters if the disk does not hold all of it yet, or a flush has something to vouch for.
    pub(super) fn send_again(&mut self, at: usize) {
        let Again { token, disk, what } = self.again.remove(at).expect("it was just found");
        let Some((change, range, fua)) = what else {
            let mattered = self.acked[disk].iter().next().is_some();
            self.counts.fault("requests replayed", mattered);
            return self.flush(disk, token);
        };
        let value = if change == Change::Write { token } else { 0 };
        let cache = self.disks[disk].borrow();
        // Whoever finds a disk of another size gives up.
        if range.end > cache.sectors() {
            return;
        }
        let mattered = range.clone().any(|sector| cache.read(sector) != value);
        drop(cache);
        self.counts.fault("requests replayed", mattered);
        self.send(token, disk, change, range, fua);
    }

    /// A connection dies with all that is in flight on it (W8): what was not submitted is dropped, the rest is awaited, and then
    /// all of it comes again.
    pub(super) fn lose_connection(&mut self, disk: usize) {
        let of_it = self.requests.iter().filter(|(_, request)| request.disk == disk && !request.forgotten);
        let of_it: Vec<_> = of_it.map(|(token, request)| (Again::of(*token, request), request.id)).collect();
        self.note(54, || format!("a connection to disk {disk} dies with {} requests", of_it.len()));
        let mut all = Vec::new();
        for (again, id) in of_it {
            let token = again.token;
            // It was answered while those before it were abandoned.
            let Some(request) = self.requests.get_mut(&token) else { continue };
            let Some(id) = id else { continue };
            request.forgotten = true;
            let mut gone = false;
            self.drive(|group, now, actions| gone = group.abandon(id, now, actions));
            self.counts.fault("abandoned requests", gone);
            if gone {
                self.requests.remove(&token);
            }
            all.push(again);
            if self.struck {
                break;
            }
        }
        self.is_sent_again(all);
    }
}
