"""An import-linter contract: code that runs actors knows none of them."""

from __future__ import annotations

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class DoorContract(Contract):
    """Modules of ``runtime`` import from ``package`` nothing but ``runtime`` itself.

    A plain ``forbidden`` contract would have to list the actors, and a job type is one file and no other is edited.
    """

    package = fields.StringField()
    runtime = fields.StringField()

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Look at every direct import of every module of the runtime."""
        del verbose
        package, runtime = str(self.package), str(self.runtime)
        inside = {runtime, *graph.find_descendants(runtime)}
        actors = ({package} | graph.find_descendants(package)) - inside
        broken = sorted(
            (importer, imported)
            for importer in inside
            for imported in graph.find_modules_directly_imported_by(importer) & actors
        )
        return ContractCheck(kept=not broken, metadata={"broken": broken})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Name every import that should not be."""
        for importer, imported in check.metadata["broken"]:
            output.print_error(f"{importer} imports {imported}", bold=False)
