//! For tests: the records that would bring a group back as it is.

use corelog_protocol::offsets_topic::{ConsumerGroupEpoch, ConsumerTargetEpoch, Record};

use super::ConsumerGroup;

impl ConsumerGroup {
    pub(in crate::group) fn snapshot(&self) -> Vec<Record> {
        let mut records = vec![
            Record::ConsumerGroup {
                group: self.id.clone(),
                value: Some(ConsumerGroupEpoch { epoch: self.epoch, metadata_hash: self.metadata_hash }),
            },
            Record::ConsumerTarget {
                group: self.id.clone(),
                value: Some(ConsumerTargetEpoch { epoch: self.target_epoch }),
            },
        ];
        for (member_id, member) in &self.members {
            let (group, id) = (self.id.clone(), member_id.clone());
            let value = Some(member.meta.clone());
            records.push(Record::ConsumerMember { group: group.clone(), member: id.clone(), value });
            let value = Some(member.to_record());
            records.push(Record::ConsumerCurrent { group, member: id, value });
        }
        for (member, target) in &self.target {
            let value = Some(target.to_record());
            records.push(Record::ConsumerTargetMember {
                group: self.id.clone(),
                member: member.clone(),
                value,
            });
        }
        for (regex, value) in &self.regexes {
            let value = Some(value.clone());
            records.push(Record::ConsumerRegex { group: self.id.clone(), regex: regex.clone(), value });
        }
        self.check();
        records
    }

    /// What must hold between the parts of a group at any time.
    fn check(&self) {
        let mut owned = 0;
        for (member_id, member) in &self.members {
            for slot in member.assigned.iter().chain(member.revoking.iter()) {
                assert_eq!(self.owners.get(&slot), Some(member_id), "{slot:?} has another owner");
                owned += 1;
            }
            if let Some(instance_id) = &member.meta.instance_id {
                assert_eq!(self.instances.get(instance_id), Some(member_id));
            }
        }
        assert_eq!(owned, self.owners.len(), "an owner is no member");
        assert!(self.instances.values().all(|member_id| self.members.contains_key(member_id)));
        assert!(self.target.keys().all(|member_id| self.members.contains_key(member_id)));
        assert!(self.target_epoch <= self.epoch);
        let mut counted = super::Tally::default();
        for (member_id, member) in &self.members {
            counted.add(&self.id, member_id, &member.meta);
        }
        assert_eq!(self.tally, counted);
    }
}
