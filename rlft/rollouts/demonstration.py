"""A demonstration as a trajectory: the tokens that a rollout of the same conversation would have made."""

from collections.abc import Mapping, Sequence

from rlft.rollouts.frame import ChatFrame
from rlft.rollouts.trajectory import FinishReason, Segment, Trajectory


def demonstration(messages: Sequence[Mapping[str, str]], frame: ChatFrame) -> Trajectory:
    """Turn a conversation into a trajectory whose assistant turns are trained on.

    Args:
        messages: `{role, content}`: a system text or none, then user and assistant in turn, the assistant last.
        frame: the chat template.

    Returns:
        The trajectory; its last turn is labelled `answer`, the model's others `act`, the user's `search`.

    Raises:
        ValueError: for another order of roles, or an assistant turn without a token.
    """
    roles = [message["role"] for message in messages]
    system = messages[0]["content"] if roles[:1] == ["system"] else None
    turns = list(messages[1:] if system is not None else messages)
    if not turns or len(turns) % 2 or [turn["role"] for turn in turns] != ["user", "assistant"] * (len(turns) // 2):
        raise ValueError(
            f"a demonstration has the roles {roles}; it must be user and assistant in turn, after a system text or "
            "none, and end with the assistant."
        )
    prompt_ids = frame.opening(turns[0]["content"], system)
    ids, segments = list(prompt_ids), []
    for place, turn in enumerate(turns[1:], start=1):
        if turn["role"] == "user":
            segment = Segment(frame.reply(turn["content"], ids), trainable=False, label="search")
        else:
            label = "answer" if place == len(turns) - 1 else "act"
            segment = Segment(frame.turn_ids(turn["content"]), trainable=True, label=label)
        segments.append(segment)
        ids += segment.ids
    return Trajectory(prompt_ids, segments, FinishReason.STOP)
