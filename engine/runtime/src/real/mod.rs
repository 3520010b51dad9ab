//! The real backend: glommio.

pub(crate) mod fs;
pub(crate) mod task;

use crate::shards::StopFlag;
use crate::task::Class;
use glommio::TaskQueueHandle;

/// What one executor thread knows of itself.
pub(crate) struct Shard {
    queues: [TaskQueueHandle; 4],
    stop: StopFlag,
}

impl Shard {
    pub(crate) fn queue(&self, class: Class) -> TaskQueueHandle {
        match class {
            Class::Journal => self.queues[0],
            Class::Serve => self.queues[1],
            Class::Read => self.queues[2],
            Class::Background => self.queues[3],
        }
    }

    pub(crate) fn stop_flag(&self) -> StopFlag {
        self.stop.clone()
    }
}
