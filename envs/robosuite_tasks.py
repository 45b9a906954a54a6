"""Plain data of the robosuite tasks: name to robosuite's class and instruction."""

from __future__ import annotations

from collections.abc import Mapping

TASKS: Mapping[str, tuple[str, str]] = {
    "door": ("Door", "turn the handle and open the door"),
    "lift": ("Lift", "lift the cube off the table"),
    "nut-assembly-round": ("NutAssemblyRound", "put the round nut on the round peg"),
    "nut-assembly-square": ("NutAssemblySquare", "put the square nut on the square peg"),
    "pick-place-bread": ("PickPlaceBread", "put the bread into its bin"),
    "pick-place-can": ("PickPlaceCan", "put the can into its bin"),
    "pick-place-cereal": ("PickPlaceCereal", "put the cereal box into its bin"),
    "pick-place-milk": ("PickPlaceMilk", "put the milk carton into its bin"),
    "stack": ("Stack", "stack the red cube on the green cube"),
    "wipe": ("Wipe", "wipe the dirt off the table"),
}
