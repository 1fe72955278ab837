//! What guests ask, what they are told, and what the oracle remembers of it.

use super::*;

impl World {
    // ---- the guest ----

    pub(super) fn guest_asks(&mut self) {
        let disk = self.rng.index(self.disks.len());
        if self.is_behind(disk) {
            return;
        }
        if self.rng.chance(90) {
            let token = self.next_token();
            return self.flush(disk, token);
        }
        let sectors = self.disks[disk].borrow().sectors();
        let (change, longest) = match self.rng.below(100) {
            0..=78 => (Change::Write, if self.rng.chance(150) { 64 } else { 16 }),
            79..=88 => (Change::Zero { may_punch: self.rng.chance(500) }, 64),
            _ => (Change::Discard, 64),
        };
        let longest = if change != Change::Write && self.rng.chance(250) { 700 } else { longest };
        let start = if self.rng.chance(600) {
            self.rng.index((self.settings.hot as usize * 8).min(sectors))
        } else {
            self.rng.index(sectors)
        };
        let mut range = start..(start + 1 + self.rng.index(longest)).min(sectors);
        if self.rng.chance(400) {
            range = range.start / 8 * 8..range.end.next_multiple_of(8).min(sectors);
        }
        // What fails is tried again, here and there: a successor is told of so many places, and not of more (W5). In few regions,
        // for many are another matter (I4).
        if self.disks[disk].borrow().sick.is_some_and(|sick| sick.writes.is_some()) && self.rng.chance(900) {
            let start = self.rng.index(100);
            range = start..start + 1 + self.rng.index(24);
        }
        let fua = self.rng.chance(100);
        let token = self.next_token();
        self.send(token, disk, change, range, fua);
    }

    pub(super) fn flush(&mut self, disk: usize, token: u64) {
        let flush = GuestFlush { disk, vouches: self.acked[disk].clone() };
        self.flushes.insert(token, flush);
        self.note(9, || format!("guest: flush {token} of disk {disk}"));
        self.drive(|group, now, actions| group.flush(DiskIndex(disk as u16), Token(token), now, actions));
        if !self.flushes.contains_key(&token) {
            self.told_of_latch();
        }
    }

    fn next_token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token - 1
    }

    /// A request goes out. What its sectors hold is not known until its reply.
    pub(super) fn send(&mut self, token: u64, disk: usize, change: Change, range: Range<usize>, fua: bool) {
        for sector in range.clone() {
            self.known[disk].remove(sector);
        }
        let request = Request {
            disk: DiskIndex(disk as u16),
            change,
            fua,
            offset: range.start as u64 * SECTOR,
            length: range.len() as u64 * SECTOR,
            token: Token(token),
        };
        let mut guest = GuestRequest {
            disk,
            change,
            fua,
            range: range.clone(),
            submitted: 0,
            id: None,
            forgotten: false,
            beside: Vec::new(),
        };
        for other in self.requests.values_mut().filter(|other| other.disk == disk) {
            other.beside.push(range.clone());
            guest.beside.push(other.range.clone());
        }
        self.requests.insert(token, guest);
        self.note(10, || format!("guest: {token} {change:?} disk {disk} sectors {range:?} fua {fua}"));
        let mut given = None;
        self.drive(|group, now, actions| given = Some(group.request(request, now, actions)));
        if let Some(guest) = self.requests.get_mut(&token) {
            guest.id = given;
        }
    }

    /// The disks hold what their guests know of. Not in buffered mode, where a sync error takes pages back.
    pub(super) fn check_known(&mut self) {
        if !self.settings.direct {
            return;
        }
        for disk in 0..self.disks.len() {
            let cache = self.disks[disk].borrow();
            let wrong = self.known[disk].iter().find(|(sector, value)| cache.read(*sector) != *value);
            let wrong = wrong.map(|(sector, value)| {
                format!("sector {sector} of disk {disk} is {}, its guest wrote {value}", cache.read(sector))
            });
            drop(cache);
            if let Some(what) = wrong {
                self.is_wrong(Oracle::Disk, what);
            }
        }
    }

    /// A connection dies (W8).
    pub(super) fn abandon(&mut self) {
        if self.requests.is_empty() || !self.rng.chance(300) {
            return;
        }
        let at = self.rng.index(self.requests.len());
        let (token, request) = self.requests.iter_mut().nth(at).expect("below the count");
        if self.plan.mischief && self.rng.chance(200) {
            let disk = request.disk;
            return self.lose_connection(disk);
        }
        let (token, Some(id), false) = (*token, request.id, request.forgotten) else { return };
        request.forgotten = true;
        self.note(11, || format!("guest: {token} is abandoned"));
        let mut gone = false;
        self.drive(|group, now, actions| gone = group.abandon(id, now, actions));
        // W8: it must never land. One that is in flight is awaited.
        self.counts.fault("abandoned requests", gone);
        if gone
            && let Some(request) = self.requests.remove(&token)
            && self.rng.chance(700)
        {
            // Some of it had landed, or somebody else is at work there: order shows.
            let meets = |other: &GuestRequest| {
                other.disk == request.disk
                    && other.range.start < request.range.end
                    && request.range.start < other.range.end
            };
            let mattered = request.submitted > 0 || self.requests.values().any(meets);
            self.counts.fault("requests sent again", mattered);
            let again = self.next_token();
            self.send(again, request.disk, request.change, request.range, request.fua);
        }
    }

    pub(super) fn reply(&mut self, token: u64, result: Result<(), Errno>) {
        self.note(12, || format!("reply {token}: {result:?}"));
        if let Some(flush) = self.flushes.remove(&token) {
            let disk = flush.disk;
            if result.is_err() {
                // The guest is told: what it wrote before is in doubt.
                self.acked[disk].clear();
                self.counts.add("flushes that failed");
                self.flushes
                    .values_mut()
                    .filter(|other| other.disk == disk)
                    .for_each(|other| other.vouches.clear());
                return;
            }
            for (sector, seq) in flush.vouches.iter() {
                if self.disks[disk].borrow().durable(sector) < seq {
                    let what =
                        format!("flush {token} was good, but sector {sector} of disk {disk} is not durable");
                    self.is_wrong(Oracle::Disk, what);
                }
                if self.acked[disk].get(sector).is_some_and(|newest| newest <= seq) {
                    self.acked[disk].remove(sector);
                }
            }
            return;
        }
        let Some(request) = self.requests.remove(&token) else {
            self.is_wrong(Oracle::Conduct, format!("a reply to {token}, which nobody awaits"));
            return;
        };
        if result.is_err() {
            self.doubted[request.disk].extend(request.range.clone());
        }
        if request.forgotten {
            return;
        }
        if result.is_err() {
            self.counts.add("requests that failed");
            if request.fua {
                self.acked[request.disk].clear();
                let same = |flush: &&mut GuestFlush| flush.disk == request.disk;
                self.flushes.values_mut().filter(same).for_each(|flush| flush.vouches.clear());
            }
            return;
        }
        self.counts.add("requests");
        if request.change != Change::Discard && request.submitted != request.range.len() {
            self.is_wrong(Oracle::Conduct, format!("{token} was acknowledged and not written whole"));
        }
        if request.submitted != request.range.len() {
            // A discard that left some as they were (W3): of those it promises nothing.
            return;
        }
        let value = if request.change == Change::Write { token } else { 0 };
        let beside = |sector: &usize| {
            request.beside.iter().any(|other| other.contains(sector))
                || self.doubted[request.disk].contains(sector)
        };
        let known = &mut self.known[request.disk];
        request.range.clone().filter(|sector| !beside(sector)).for_each(|sector| known.insert(sector, value));
        let cache = self.disks[request.disk].borrow();
        for sector in request.range {
            if request.fua
                && request.change != Change::Discard
                && cache.durable(sector) < cache.newest(sector)
            {
                // Another write may be over it by now; only its own value counts.
                continue;
            }
            self.acked[request.disk].insert(sector, cache.newest(sector));
        }
    }
}
