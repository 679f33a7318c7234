"""What rlx adds to Hydra's search path: installed packages with the entry point `rlx.plugins`, and classes as configs."""

from __future__ import annotations

from importlib.metadata import entry_points

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from rlx.config.class_source import SCHEME, ClassSource
from rlx.config.schema import register

GROUP = "rlx.plugins"


def plugin_packages() -> list[str]:
    """The packages of YAML folders that installed plugins bring: the entry point `my_lab` (or `my_lab.conf`) is my_lab/conf."""
    names = (entry.value.partition(":")[0] for entry in entry_points(group=GROUP))
    return sorted({name if name.endswith(".conf") else f"{name}.conf" for name in names})


def plugin_targets() -> set[str]:
    """Whatever an installed plugin holds may be named: it was installed on purpose."""
    return {f"{package.partition('.')[0]}.*" for package in plugin_packages()}


class RlxSearchPath(SearchPathPlugin):
    """Adds the plugins' folders and the source of classes behind rlx's own conf."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for package in plugin_packages():
            search_path.append(provider=package.removesuffix(".conf"), path=f"pkg://{package}")
        search_path.append(provider="rlx", path=f"{SCHEME}://")


def install() -> None:
    """Make schema, resolvers and sources known to Hydra; may be called again."""
    register()
    plugins = Plugins.instance()  # its scan comes first: it would register other classes of the same names
    plugins.register(ClassSource)
    plugins.register(RlxSearchPath)
