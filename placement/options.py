"""The times by which placement tells the living from the dead."""

from __future__ import annotations

from dataclasses import dataclass

from perdure.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementOptions:
    """All in seconds. The same for the service and all its nodes.

    Together they keep one promise: while a node still believes placement's last word, nobody has taken its
    partitions without asking it.
    """

    #: How long a node may be without a link before it is dead.
    link_grace: float = 1.0
    #: How long a node may say nothing before it is dead.
    silence: float = 3.0
    #: How long a new leader waits for the members of the stored table before it changes anything.
    takeover_grace: float = 5.0
    #: How long a node believes placement's last word.
    word: float = 0.4
    #: How often a node says that it lives; each time placement answers with its word.
    heartbeat: float = 0.15
    #: How often a leader renews its lease, which proves that it still stands.
    confirm: float = 0.5
    #: After how long without that proof a leader gives its word no more, and takes nobody for dead. With `word` it is
    #: to stay below the life of a lease that expires: then nobody believes the last leader when the next one begins.
    confirm_within: float = 1.5
    #: How often a node that is not in the table asks to be.
    rejoin: float = 1.0
    #: How often the service looks for the dead.
    tick: float = 0.1
    #: How often a standby tries to take the lease, more or less.
    acquire: float = 0.5
    #: The longest wait between two attempts to reach placement.
    reconnect_limit: float = 1.0
    #: How long a node may begin limited activities after placement last confirmed its share.
    share: float = 5.0
    #: How long what a node runs may go on after its share has ended: the share of one that has fallen silent goes to
    #: others after that. Activities that may take longer need more.
    share_grace: float = 60.0
    #: How often shares are reconsidered where they are short.
    rebalance: float = 0.3
    #: How long a node keeps its share where fewer may run than nodes want to.
    turn: float = 2.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"placement option {name} must be more than 0 seconds")
        self._below("heartbeat", self.heartbeat, "word / 2", self.word / 2)
        self._below("word", self.word, "link_grace", self.link_grace)
        self._below("word", self.word, "silence", self.silence)
        self._below("confirm", self.confirm, "confirm_within / 2", self.confirm_within / 2)
        self._below(
            "confirm_within + word", self.confirm_within + self.word, "takeover_grace", self.takeover_grace
        )

        self._below("reconnect_limit", self.reconnect_limit, "takeover_grace / 3", self.takeover_grace / 3)
        self._below("heartbeat", self.heartbeat, "share / 4", self.share / 4)

    def former_leader_grace(self, life: float) -> float:
        """How long a new leader waits for the node that the last one ran in, which most likely died with it.

        That node may still believe its own leader's word. Of a lease that passes on by expiring, and not before `life`
        seconds without renewal, the next leader knows that this word is over. Any other lease (0: it may pass on at
        once, as when a connection breaks) leaves the last leader up to `confirm_within` to find out."""
        word = self.confirm_within + self.word
        return self.link_grace if word < life else max(self.link_grace, word)

    @staticmethod
    def _below(name: str, value: float, bound: str, limit: float) -> None:
        if not value < limit:
            raise ConfigurationError(
                f"placement option {name} ({value:g} s) must be below {bound} ({limit:g} s)"
            )
