"""What the user set under Preferences, for all windows and sessions."""

from typing import TypeVar

Value = TypeVar("Value", str, int, float, bool)


def preference(section: str, name: str, default: Value) -> Value:
    """Read a setting of the plugin from napari's preferences.

    Parameters
    ----------
    section, name : str
        As under ``configurations`` in napari.yaml.
    default : str, int, float or bool
        Taken when nothing is set, or napari has no such page.

    Returns
    -------
    str, int, float or bool

    Examples
    --------
    >>> preference("results", "no such name", "here")
    'here'
    """
    try:
        from napari.settings import get_plugin_settings

        found = getattr(getattr(get_plugin_settings("atomvae"), section), name)
    except (ImportError, AttributeError, KeyError, ValueError):
        return default
    return found if found not in ("", None) else default
