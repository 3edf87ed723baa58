"""Families: kinds of components, which also annotate parameters of that kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import PydanticCustomError, core_schema

from minigpt.errors import ExperimentError
from minigpt.registry.spec import Spec


@dataclass(frozen=True)
class Family:
    """A kind of component. `Annotated[Spec[Base], family]` annotates a parameter of that kind.

    Attributes:
        name: Such as `attention`.
        base: The contract that every component of the family inherits.
        receives: Names of the positional arguments that the lab passes to each constructor.
        resolve: Makes a complete Spec from a family's name and a JSON value.
        params_of: Returns the model of a component's parameters for a family's and a component's name; None if unknown.
    """

    name: str
    base: type
    receives: tuple[str, ...]
    resolve: Callable[[str, Any], Spec[Any]] = field(compare=False, repr=False)
    params_of: Callable[[str, str], type[BaseModel] | None] = field(compare=False, repr=False)

    def _validate(self, value: Any) -> Spec[Any]:
        try:
            return self.resolve(self.name, value)
        except ExperimentError as error:
            text = "\n".join(str(problem) for problem in error.problems)
            raise PydanticCustomError("component", "{text}", {"problems": error.problems, "text": text}) from error

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        to_json = core_schema.plain_serializer_function_ser_schema(lambda spec: spec.to_json())
        return core_schema.no_info_plain_validator_function(self._validate, serialization=to_json)

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"x-family": self.name}  # `minigpt schema` puts the union of what is registered in its place
